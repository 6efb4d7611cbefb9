import { render } from "preact";
import "./style.css";
import { App } from "./app";
import { keepToken } from "./api";
import { useStoredTheme } from "./theme";

keepToken();
useStoredTheme();
render(<App />, document.getElementById("app")!);
