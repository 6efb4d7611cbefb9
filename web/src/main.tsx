import { render } from "preact";
import "./style.css";
import { App } from "./app";
import { useStoredTheme } from "./theme";

useStoredTheme();
render(<App />, document.getElementById("app")!);
