// The timeline: what there is, when, and a moment to pick. An SVG that is one slider to keyboards and screen readers.
import { Box, Button, color, Flex, h, Text, useEffect, useMemo, useRef, useState } from "./host.js";
import { utc } from "./format.js";

const MINUTE = 60_000, HOUR = 60 * MINUTE, DAY = 24 * HOUR;
const LABELS = 92, ROW = 30, AXIS = 26, MERGE = 7;
const STEPS = [MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY, 90 * DAY, 365 * DAY];
const RANGES = [["1 h", HOUR], ["24 h", DAY], ["7 days", 7 * DAY], ["30 days", 30 * DAY]];
const RANK = { failed: 5, rejected: 4, running: 3, captured: 2, verified: 1 };
const COLORS = { captured: "blue.solid", failed: "red.solid", rejected: "red.solid", running: "fg.muted", verified: "green.solid" };

const at = (moment) => Date.parse(moment);

// Marks nearer than a finger's width become one, which shows the worst of them and says how many there are.
export const merged = (marks, place) => {
  const found = [];
  for (const mark of marks) {
    const x = place(mark.at);
    const last = found.at(-1);
    if (last && x - last.x < MERGE) {
      last.count += 1;
      if (RANK[mark.state] > RANK[last.state]) last.state = mark.state;
      last.label = `${last.count} between ${utc(last.at)} and ${utc(mark.at)}, worst: ${last.state}`;
    } else found.push({ ...mark, count: 1, x });
  }
  return found;
};

// Verified: a disc. Not proved yet: a ring. Rejected or failed: a cross.
const Mark = ({ mark, y }) => {
  const stroke = color(COLORS[mark.state]);
  const shape = RANK[mark.state] > 3
    ? h("path", { d: `M${mark.x - 4} ${y - 4}l8 8m0 -8l-8 8`, stroke, strokeWidth: 2.5 })
    : h("circle", { cx: mark.x, cy: y, fill: mark.state === "verified" ? stroke : "none", r: mark.count > 1 ? 6 : 4.5,
        stroke, strokeDasharray: mark.state === "running" ? "2 2" : undefined, strokeWidth: 2 });
  return h("g", { "data-state": mark.state }, h("title", null, mark.label), shape);
};

const bar = (key, x1, x2, y, fill, label, extra = {}) =>
  h("rect", { fill, height: 12, key, rx: 2, width: Math.max(x2 - x1, 2), x: x1, y: y - 6, ...extra }, h("title", null, label));

const lanesOf = (overview) => {
  const marks = (kind) => overview.backups
    .filter((one) => one.kind === kind)
    .map((one) => ({ at: at(one.moment), label: `${one.id}: ${one.state}`, state: one.state }))
    .sort((a, b) => a.at - b.at);
  const prospect = overview.prospect ?? { coverage: [], gaps: [], windows: [] };
  const timelines = [...new Set(prospect.windows.map((one) => one.timeline))];
  return [
    { marks: marks("full"), name: "dumps" },
    { marks: marks("base"), name: "bases" },
    { marks: marks("incremental"), name: "incrementals" },
    { bars: prospect.coverage.map((one) => ({ fill: "blue.muted", from: at(one.earliest), to: at(one.latest),
        label: `WAL of timeline ${one.timeline}: ${one.start} to ${one.end}` })),
      holes: prospect.gaps.map((one) => ({ from: at(one.after ?? one.before), to: at(one.before ?? one.after),
        label: `missing on timeline ${one.timeline}: ${one.start} to ${one.end}` })),
      name: "WAL" },
    ...timelines.map((timeline) => ({
      bars: prospect.windows.filter((one) => one.timeline === timeline).map((one) => ({ fill: "green.solid",
        from: at(one.earliest), label: `every moment from ${utc(one.earliest)} to ${utc(one.latest)}`, to: at(one.latest) })),
      name: timelines.length > 1 ? `timeline ${timeline}` : "reachable",
    })),
    { marks: overview.drills.map((one) => ({ at: at(one.started_at), state: one.ok ? "verified" : "failed",
        label: `drill, ${one.scenario}: ${one.ok ? "passed" : "failed"}` })).sort((a, b) => a.at - b.at),
      name: "drills" },
  ];
};

const ticksOf = (view, width) => {
  const step = STEPS.find((one) => (view.to - view.from) / one <= Math.max(width / 110, 2)) ?? STEPS.at(-1);
  const first = Math.ceil(view.from / step) * step;
  const count = Math.max(Math.floor((view.to - first) / step) + 1, 0);
  return Array.from({ length: Math.min(count, 40) }, (_, i) => first + i * step).map((moment) => ({
    moment,
    text: step < DAY ? new Date(moment).toISOString().slice(5, 16).replace("T", " ") : new Date(moment).toISOString().slice(0, 10),
  }));
};

const useWidth = () => {
  const ref = useRef(null);
  const [width, setWidth] = useState(700);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.max(entry.contentRect.width, 240)));
    observer.observe(ref.current);
    return () => observer.disconnect();
  }, []);
  return [ref, width];
};

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export const isReachable = (overview, moment) =>
  (overview.prospect?.windows ?? []).some((one) => at(one.earliest) <= moment && moment <= at(one.latest));

const useView = (overview, now) => {
  const oldest = useMemo(
    () => overview.backups.reduce((least, one) => Math.min(least, at(one.moment)), now - HOUR),
    [overview],
  );
  const [view, setView] = useState({ from: Math.max(oldest, now - 7 * DAY) - 30 * MINUTE, to: now });
  const show = (from, length) => {
    const wide = clamp(length, 10 * MINUTE, Math.max(now - oldest, HOUR) * 1.1);
    setView({ from: Math.min(from, now + wide * 0.05 - wide), to: Math.min(from + wide, now + wide * 0.05) });
  };
  const zoom = (factor, around) =>
    show(around - (around - view.from) * factor, (view.to - view.from) * factor);
  const pan = (part) => show(view.from + (view.to - view.from) * part, view.to - view.from);
  return { oldest, pan, show, view, zoom };
};

export const Timeline = ({ overview, moment, onPick }) => {
  const now = at(overview.summary.at);
  const [ref, width] = useWidth();
  const { oldest, pan, show, view, zoom } = useView(overview, now);
  const lanes = useMemo(() => lanesOf(overview), [overview]);
  const pointers = useRef(new Map());
  const plot = width - LABELS;
  const place = (time) => LABELS + ((time - view.from) / (view.to - view.from)) * plot;
  const height = lanes.length * ROW + AXIS;
  const momentAt = (event) => {
    const x = event.clientX - ref.current.getBoundingClientRect().left;
    return view.from + ((x - LABELS) / plot) * (view.to - view.from);
  };
  const pick = (time) => {
    const next = Math.round(clamp(time, oldest, now) / 1000) * 1000;
    onPick(next);
    if (next < view.from || next > view.to) show(next - (view.to - view.from) / 2, view.to - view.from);
  };
  const stride = Math.max((view.to - view.from) / 200, 1000);
  const windows = overview.prospect?.windows ?? [];
  const keys = {
    "+": () => zoom(0.5, moment), "-": () => zoom(2, moment), "=": () => zoom(0.5, moment),
    ArrowDown: () => pick(moment - stride), ArrowLeft: () => pick(moment - stride),
    ArrowRight: () => pick(moment + stride), ArrowUp: () => pick(moment + stride),
    End: () => windows.length && pick(Math.floor(at(windows.at(-1).latest) / 1000) * 1000),
    Home: () => windows.length && pick(Math.ceil(at(windows.at(-1).earliest) / 1000) * 1000),
    PageDown: () => pick(moment - 20 * stride), PageUp: () => pick(moment + 20 * stride),
  };
  const onKeyDown = (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  };
  const onPointerDown = (event) => {
    event.currentTarget.setPointerCapture(event.pointerId);
    pointers.current.set(event.pointerId, { start: event.clientX, x: event.clientX });
  };
  const onPointerMove = (event) => {
    const own = pointers.current.get(event.pointerId);
    if (!own) return;
    const other = [...pointers.current].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const before = Math.max(Math.abs(own.x - other.x), 10), after = Math.max(Math.abs(event.clientX - other.x), 10);
      zoom(before / after, momentAt({ clientX: (event.clientX + other.x) / 2 }));
      own.pinched = other.pinched = true;
    } else if (Math.abs(event.clientX - own.start) > 5) pan((own.x - event.clientX) / plot);
    own.x = event.clientX;
  };
  const onPointerUp = (event) => {
    const own = pointers.current.get(event.pointerId);
    pointers.current.delete(event.pointerId);
    if (own && !own.pinched && Math.abs(event.clientX - own.start) <= 5) pick(momentAt(event));
  };
  useEffect(() => {
    const onWheel = (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoom(event.deltaY < 0 ? 0.8 : 1.25, momentAt(event));
    };
    const element = ref.current;
    element.addEventListener("wheel", onWheel, { passive: false });
    return () => element.removeEventListener("wheel", onWheel);
  });

  const inside = (one) => one.at >= view.from && one.at <= view.to;
  const drawn = lanes.map((lane, index) => {
    const y = index * ROW + ROW / 2;
    const bars = (lane.bars ?? []).filter((one) => one.to >= view.from && one.from <= view.to);
    const holes = (lane.holes ?? []).filter((one) => one.to >= view.from && one.from <= view.to);
    return h("g", { key: lane.name },
      h("text", { dominantBaseline: "middle", fill: color("fg.muted"), style: { fontSize: 12 }, x: 0, y }, lane.name),
      h("line", { stroke: color("border"), x1: LABELS, x2: width, y1: y, y2: y }),
      bars.map((one, i) => bar(`b${i}`, Math.max(place(one.from), LABELS), Math.min(place(one.to), width), y, color(one.fill), one.label)),
      holes.map((one, i) => bar(`h${i}`, Math.max(place(one.from), LABELS), Math.min(place(one.to), width), y, "url(#pgbackup-gap)", one.label,
        { "data-gap": "", stroke: color("red.solid") })),
      merged((lane.marks ?? []).filter(inside), place).map((mark, i) => h(Mark, { key: i, mark, y })));
  });
  const axis = ticksOf(view, plot).map(({ moment: time, text }) => h("g", { key: time },
    h("line", { stroke: color("border"), strokeDasharray: "2 4", x1: place(time), x2: place(time), y1: 0, y2: height - AXIS }),
    h("text", { fill: color("fg.muted"), style: { fontSize: 11 }, textAnchor: "middle", x: place(time), y: height - 8 }, text)));
  const reachable = isReachable(overview, moment);
  const x = place(moment);
  const cursor = moment >= view.from && moment <= view.to && h("g", { "data-cursor": "" },
    h("line", { stroke: color(reachable ? "fg" : "red.solid"), strokeWidth: 2, x1: x, x2: x, y1: 0, y2: height - AXIS }),
    h("path", { d: `M${x - 6} 0h12l-6 9z`, fill: color(reachable ? "fg" : "red.solid") }));
  const svg = h("svg", { "aria-hidden": true, height, width },
    h("defs", null, h("pattern", { height: 6, id: "pgbackup-gap", patternTransform: "rotate(45)", patternUnits: "userSpaceOnUse", width: 6 },
      h("rect", { fill: color("red.solid"), height: 6, width: 3 }))),
    axis, drawn, cursor);
  const button = (label, title, onClick) => h(Button, { "aria-label": title, key: title, onClick, size: "xs", title, variant: "outline" }, label);
  return h(Box, null,
    h(Flex, { gap: 1, mb: 2, wrap: "wrap" },
      RANGES.map(([label, length]) => button(label, `show the last ${label}`, () => show(now - length, length))),
      button("all", "show everything", () => show(oldest - HOUR, now - oldest + 2 * HOUR)),
      button("◀", "earlier", () => pan(-0.5)), button("▶", "later", () => pan(0.5)),
      button("+", "zoom in", () => zoom(0.5, moment)), button("−", "zoom out", () => zoom(2, moment))),
    h(Box, { _focusVisible: { outline: "2px solid", outlineColor: "blue.solid" }, "aria-label": "moment to recover, UTC",
        "aria-valuemax": now / 1000, "aria-valuemin": oldest / 1000, "aria-valuenow": moment / 1000,
        "aria-valuetext": `${utc(moment)}, ${reachable ? "can be recovered" : "cannot be recovered"}`,
        cursor: "crosshair", "data-testid": "timeline", onKeyDown, onPointerCancel: onPointerUp, onPointerDown, onPointerMove,
        onPointerUp, ref, role: "slider", style: { touchAction: "pan-y", userSelect: "none" }, tabIndex: 0, w: "full" }, svg),
    h(Text, { color: "fg.muted", fontSize: "xs", mt: 1 },
      "UTC. Filled: verified; ring: not proved yet; cross: rejected or failed; hatched: WAL is missing. Click to pick, drag to move,",
      " Ctrl+wheel or pinch to zoom; arrow keys, Page Up/Down, Home, End, + and − do the same."));
};
