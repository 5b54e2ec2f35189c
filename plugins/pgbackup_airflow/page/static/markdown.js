// The Markdown that the engine writes (paragraphs, tables, lists, bold, code, escapes) as elements: no HTML is parsed.
import { Box, h, Table, Text } from "./host.js";

const INLINE = /\\([\\`*[\]<>|])|\*\*(.+?)\*\*|`([^`]+)`/gu;

export const inline = (text) => {
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    parts.push(text.slice(end, found.index));
    if (found[1]) parts.push(found[1]);
    else if (found[2]) parts.push(h("strong", { key: found.index }, inline(found[2])));
    else parts.push(h("code", { key: found.index }, found[3]));
    end = found.index + found[0].length;
  }
  return [...parts, text.slice(end)];
};

const cells = (line) => line.slice(1, -1).split(/(?<!\\)\|/u).map((cell) => cell.trim());

const table = (lines, key) => {
  const [header, , ...rows] = lines.map(cells);
  const titles = header.some(Boolean) &&
    h(Table.Header, null, h(Table.Row, null, header.map((cell, i) => h(Table.ColumnHeader, { key: i }, inline(cell)))));
  const body = rows.map((row, r) =>
    h(Table.Row, { key: r }, row.map((cell, i) => h(Table.Cell, { key: i, wordBreak: "break-word" }, inline(cell)))),
  );
  return h(Table.Root, { key, mb: 3, size: "sm" }, titles, h(Table.Body, null, body));
};

const block = (lines, key) => {
  if (lines[0].startsWith("|")) return table(lines, key);
  if (lines[0].startsWith("- "))
    return h(Box, { as: "ul", key, mb: 3, pl: 5, style: { listStyle: "disc" } },
      lines.map((line, i) => h("li", { key: i }, inline(line.slice(2)))));
  return h(Text, { key, mb: 3 }, inline(lines.join(" ")));
};

const kind = (line) => (line.startsWith("|") ? "table" : line.startsWith("- ") ? "list" : "text");

export const Markdown = ({ text }) => {
  const blocks = [];
  let before = "";
  for (const line of text.split("\n")) {
    if (!line.trim()) before = "";
    else if (kind(line) === before) blocks.at(-1).push(line);
    else {
      blocks.push([line]);
      before = kind(line);
    }
  }
  return h(Box, null, blocks.map(block));
};
