/** Light or dark: the system's until it is chosen here. */
import { signal } from "@preact/signals";

const KEY = "directrix-theme";
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");

export const isDark = signal(system.matches);

const update = () => {
  isDark.value = root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
};

export function useStoredTheme() {
  const stored = localStorage.getItem(KEY);
  if (stored === "dark" || stored === "light") root.dataset.theme = stored;
  system.addEventListener("change", update);
  update();
}

export function toggleTheme() {
  root.dataset.theme = isDark.value ? "light" : "dark";
  localStorage.setItem(KEY, root.dataset.theme);
  update();
}
