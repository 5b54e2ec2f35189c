// One cluster: how it stands, its timeline, a moment to pick, and what there is.
import { Badge, Box, color, Flex, h, Heading, Stack, Text, useState } from "./host.js";
import { useAnswer } from "./api.js";
import { browserZone, size, span, utc } from "./format.js";
import { Fact, Failure, Level, Loading, Notice, Rows, runPath, Section, To } from "./parts.js";
import { Picker, UnderWay } from "./recover.js";
import { Reports } from "./reports.js";
import { Timeline } from "./timeline.js";

const MOST = 20;

const Facts = ({ summary }) => {
  const late = summary.loss_seconds !== null && summary.loss_seconds > summary.rpo_seconds;
  const slow = summary.predicted_seconds !== null && summary.predicted_seconds > summary.rto_seconds;
  return h(Box, { display: "grid", gap: 2, gridTemplateColumns: "repeat(auto-fit, minmax(11rem, 1fr))", mb: 4 },
    h(Fact, { alarm: late, label: "Would be lost now (RPO)", note: `at most; objective ${span(summary.rpo_seconds)}`, value: span(summary.loss_seconds) }),
    h(Fact, { alarm: slow, label: "Recovery would take (RTO)", note: `predicted; objective ${span(summary.rto_seconds)}`, value: span(summary.predicted_seconds) }),
    h(Fact, { alarm: !summary.last_verified, label: "Last verified backup", value: utc(summary.last_verified) }),
    h(Fact, { label: "Can be recovered from", value: utc(summary.earliest) }),
    h(Fact, { label: "to", note: `seen ${utc(summary.watched_at)}`, value: utc(summary.latest) }));
};

const Problems = ({ summary }) => summary.problems.length > 0 &&
  h(Notice, { status: "error", title: `${summary.problems.length} of what recovery depends on does not hold` },
    h(Box, { as: "ul", pl: 4, style: { listStyle: "disc" } }, summary.problems.map((one) =>
      h("li", { key: one.name }, h("strong", null, one.name), one.detail && `: ${one.detail}`, one.since && ` (since ${utc(one.since)})`,
        one.hint && h(Text, { color: "fg.muted", fontSize: "sm" }, one.hint)))));

const total = (holdings, name) => holdings.reduce((sum, one) => sum + one[name], 0);

const Copies = ({ repositories }) => h(Section, { title: "Copies" }, h(Rows, {
  empty: "no repository", header: ["repository", "backups", "verified", "damaged", "size", "last proved", "WAL until"],
  rows: repositories.map(({ holdings, name, wal_error: error, wal_until: until }) => [
    name, total(holdings, "copies"), total(holdings, "verified"),
    total(holdings, "damaged") ? h(Badge, { colorPalette: "red" }, total(holdings, "damaged")) : 0,
    size(total(holdings, "bytes")), utc(holdings.map((one) => one.verified_at).filter(Boolean).sort().at(-1)),
    name === "local" ? "the archive itself" : h("span", null, utc(until), error && ` (${error})`),
  ]),
}));

// What each week has added; a bar a week, the numbers for those who cannot see them.
const Growth = ({ captured, kind }) => {
  const weeks = captured.filter((one) => one.kind === kind);
  const most = Math.max(...weeks.map((one) => one.bytes), 1);
  const label = `${kind}: ${weeks.map((one) => `week of ${one.week.slice(0, 10)} ${size(one.bytes)}`).join(", ")}`;
  return h("svg", { "aria-label": label, height: 28, role: "img", width: Math.max(weeks.length * 9, 9) },
    weeks.map((one, i) => h("rect", { fill: color("blue.solid"), height: Math.max((one.bytes / most) * 26, 1), key: one.week, width: 7, x: i * 9, y: 27 - (one.bytes / most) * 26 },
      h("title", null, `week of ${one.week.slice(0, 10)}: ${size(one.bytes)}`))));
};

const Storage = ({ captured, prospect, repositories }) => {
  const rows = ["full", "base", "incremental"].map((kind) => {
    const held = repositories.flatMap((one) => one.holdings).filter((one) => one.kind === kind);
    const own = captured.filter((one) => one.kind === kind);
    return [kind, total(held, "copies"), size(total(held, "bytes")), own.length ? size(own.at(-1).bytes) : "", h(Growth, { captured, kind })];
  });
  const wal = prospect ? [["WAL, before compression", "", size(prospect.segment_bytes), "", ""]] : [];
  return h(Section, { title: "Storage" },
    h(Rows, { header: ["kind", "copies", "size in all repositories", "captured in the last week", "captured by week"], rows: [...rows, ...wal] }));
};

const Runs = ({ dags }) => h(Section, { title: "Next runs" }, h(Rows, {
  empty: "there is no DAG that you may see", header: ["DAG", "past runs", "next run"],
  rows: dags.map((dag) => [h(To, { path: `/dags/${encodeURIComponent(dag.dag_id)}` }, dag.dag_id),
    h(To, { path: `/dags/${encodeURIComponent(dag.dag_id)}/runs` }, "runs"), dag.paused ? h(Badge, { colorPalette: "orange" }, "paused") : dag.next ? utc(dag.next) : "by hand"]),
}));

const Drills = ({ drills }) => h(Section, { title: "Recovery drills" }, h(Rows, {
  empty: "no recovery was drilled yet", header: ["when", "scenario", "of", "passed", "took", "predicted", "lost"],
  rows: drills.slice(0, MOST).map((one) => [utc(one.started_at), one.scenario, one.subject, one.ok ? "yes" : h(Badge, { colorPalette: "red" }, "no"),
    span(one.rto_seconds), span(one.predicted_seconds), one.rpo_seconds === null ? "not measured" : span(one.rpo_seconds)]),
}));

const Holds = ({ prospect }) => h(Section, { title: "Holds" }, h(Rows, {
  empty: "nothing is held", header: ["backup", "by", "reason", "until"],
  rows: (prospect?.holds ?? []).map((one) => [one.backup_id, one.owner, one.reason, one.expires_at ? utc(one.expires_at) : "released"]),
}));

const Backups = ({ backups }) => h(Section, { title: "Newest backups" }, h(Rows, {
  empty: "no backup yet", header: ["backup", "shows", "state", "size", "took", "copies"],
  rows: backups.slice(0, MOST).map((one) => [one.id, utc(one.moment), one.state, size(one.bytes), one.seconds === null ? "" : span(one.seconds),
    Object.entries(one.copies).map(([name, state]) => `${name}: ${state}`).join(", ")]),
}));

// Who did it: a run of a DAG, with its page, or somebody at a shell.
const Owner = ({ owner }) => {
  const [, dagId, runId] = /^([^/]+)\/(.+)$/u.exec(owner) ?? [];
  return dagId ? h(To, { path: runPath(dagId, runId) }, "run") : owner;
};

const Watched = ({ watched }) => h(Section, { title: "What the watch sees" }, h(Rows, {
  empty: "nobody has watched yet: the wal_watch DAG does", header: ["", "holds", "detail", "since", "seen by"],
  rows: watched.map((one) => [one.name, one.ok ? "yes" : h(Badge, { colorPalette: "red" }, "no"), one.detail, utc(one.since),
    h(Owner, one)]),
}));

const Contacts = ({ contacts }) => contacts.length > 0 && h(Section, { title: "Who to call" },
  h(Rows, { header: ["role", "name", "at"], rows: contacts.map((one) => [one.role, one.name, one.reach]) }));

export const Cluster = ({ cluster }) => {
  const { at, data: overview, error, refresh } = useAnswer(`clusters/${cluster}`);
  const { data: runs, error: unknown, refresh: again } = useAnswer(`clusters/${cluster}/runs`);
  const [picked, setPicked] = useState();
  if (!overview && !error) return h(Loading, { rows: 8 });
  const clock = overview && Date.parse(overview.summary.at);
  const latest = overview?.summary.latest;
  const moment = picked ?? (latest ? Math.floor(Date.parse(latest) / 1000) * 1000 : (clock ?? Date.now()));
  const skew = overview && Math.abs(at - clock) / 1000;
  const picker = { cluster, mayStart: runs?.may_start ?? [], moment, onPick: setPicked, overview, refresh: () => { refresh(); again(); }, skew };
  return h(Box, { "data-testid": "cluster" },
    h(Flex, { align: "center", gap: 3, mb: 3, wrap: "wrap" }, h(Heading, { size: "lg" }, cluster),
      overview && h(Level, { level: overview.summary.level }),
      h(Text, { color: "fg.muted", fontSize: "sm" }, `all times UTC; your browser is at ${browserZone()}`)),
    error && h(Failure, { cluster, error }),
    unknown && unknown.kind !== error?.kind && h(Failure, { cluster, error: unknown }),
    runs?.under_way.map((run) => h(UnderWay, { key: run.dag_run_id, run })),
    overview && h(Facts, overview),
    overview && h(Problems, overview),
    overview && !overview.backups.length && h(Notice, { title: "There is no backup yet" }, `Run the DAG ${cluster}_full_backup.`),
    overview && h(Timeline, { moment, onPick: setPicked, overview }),
    error?.kind !== "login" && error?.kind !== "permission" && h(Picker, picker),
    overview && h(Stack, { gap: 0 }, h(Copies, overview), h(Storage, overview), runs && h(Runs, runs), h(Holds, overview),
      h(Drills, overview), h(Reports, { cluster }), h(Backups, overview), h(Watched, overview), h(Contacts, overview)));
};
