// Small parts that every view uses.
import { Alert, Badge, Box, h, Heading, Link, Skeleton, Stack, Table, Text } from "./host.js";

export const LEVELS = { bad: ["red", "needs attention"], good: ["green", "recoverable"], unknown: ["gray", "not known yet"] };

export const Level = ({ level }) => h(Badge, { colorPalette: LEVELS[level][0], "data-level": level }, LEVELS[level][1]);

export const Notice = ({ children, status = "info", title, ...rest }) =>
  h(Alert.Root, { mb: 3, status, ...rest }, h(Alert.Indicator),
    h(Alert.Content, null, h(Alert.Title, null, title), h(Alert.Description, null, children)));

const TITLES = {
  login: "You are logged out",
  network: "Airflow does not answer",
  permission: "You have no permission",
  refused: "That cannot be",
  unavailable: "The catalog or the storage does not answer",
};

const loginAddress = () => {
  const address = new URL("auth/login/", document.baseURI);
  address.searchParams.set("next", window.location.href);
  return address.href;
};

// Every error is shown with what to do next.
export const Failure = ({ cluster, error }) =>
  h(Notice, { "data-kind": error.kind, role: "alert", status: error.kind === "refused" ? "warning" : "error",
      title: TITLES[error.kind] ?? "That went wrong" },
    h(Text, { whiteSpace: "pre-wrap" }, error.message, error.values && `: ${error.values}`),
    error.hint && h(Text, { color: "fg.muted" }, error.hint),
    error.kind === "login" && h("a", { href: loginAddress(), style: { textDecoration: "underline" } }, "Log in again"),
    error.kind === "unavailable" && h(Text, null, "Recovery works without it, from a shell: ",
      h("code", null, `pgbackup recover cluster --cluster ${cluster ?? "NAME"} --to latest --into FOLDER`)));

export const Loading = ({ rows = 3 }) =>
  h(Stack, { "aria-busy": true, "aria-label": "loading", role: "status" },
    Array.from({ length: rows }, (_, i) => h(Skeleton, { height: "2rem", key: i })));

export const Fact = ({ alarm, label, note, value }) =>
  h(Box, { borderColor: alarm ? "red.solid" : "border", borderRadius: "md", borderWidth: 1, minW: 0, p: 3 },
    h(Text, { color: "fg.muted", fontSize: "xs" }, label),
    h(Text, { fontWeight: "bold" }, value, alarm && h(Text, { as: "span", color: "fg.error" }, " !")),
    note && h(Text, { color: "fg.muted", fontSize: "xs" }, note));

export const To = ({ children, path }) => h(Link, { style: { textDecoration: "underline" }, to: path }, children);

export const runPath = (dagId, runId) => `/dags/${encodeURIComponent(dagId)}/runs/${encodeURIComponent(runId)}`;

export const Section = ({ children, title }) =>
  h(Box, { as: "section", "aria-label": title, mt: 6 }, h(Heading, { mb: 2, size: "md" }, title), children);

export const Rows = ({ empty, header, rows }) => rows.length === 0
  ? h(Text, { color: "fg.muted" }, empty)
  : h(Table.ScrollArea, null, h(Table.Root, { size: "sm" },
      h(Table.Header, null, h(Table.Row, null, header.map((text) => h(Table.ColumnHeader, { key: text }, text)))),
      h(Table.Body, null, rows.map((cells, r) => h(Table.Row, { key: r }, cells.map((cell, i) => h(Table.Cell, { key: i }, cell)))))));
