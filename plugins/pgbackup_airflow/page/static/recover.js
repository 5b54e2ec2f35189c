// Pick a moment, see its plan, start the run that carries it out.
import { Box, Button, Dialog, Flex, h, Heading, Input, Portal, Text, useEffect, useNavigate, useState } from "./host.js";
import { ask } from "./api.js";
import { browserZone, local, parseMoment, span, utc } from "./format.js";
import { Markdown } from "./markdown.js";
import { Failure, Loading, Notice, runPath, To } from "./parts.js";
import { isReachable } from "./timeline.js";

const PROCEDURES = {
  recover_point_in_time: "the whole cluster, beside the present one",
  recover_database: "one database",
  recover_table: "one table",
};

export const UnderWay = ({ run }) =>
  h(Notice, { "data-testid": "under-way", status: "warning", title: "A recovery is under way" },
    h(Text, null, `${run.triggering_user_name ?? "somebody"} started `,
      h(To, { path: runPath(run.dag_id, run.dag_run_id) }, run.dag_run_id), ` of ${run.dag_id} (${run.state}).`,
      run.conf?.time || run.conf?.moment ? ` To ${utc(run.conf.time ?? run.conf.moment)}.` : ""));

const Field = ({ label, onChange, options, value }) => {
  const given = { "aria-label": label, onChange: (event) => onChange(event.target.value), value };
  return h("label", { style: { display: "block", marginBottom: "0.5rem" } }, h(Text, { fontSize: "sm" }, label),
    options
      ? h(Box, { as: "select", bg: "bg", borderColor: "border", borderRadius: "sm", borderWidth: 1, p: 1, w: "full", ...given },
          options.map(([name, text]) => h("option", { key: name, value: name }, text)))
      : h(Input, { size: "sm", ...given }));
};

// The plan, and what is started. A refusal of the plan forbids no run: that one asks the server for its newest WAL.
const Plan = ({ cluster, mayStart, moment, onClose, refresh, repository }) => {
  const navigate = useNavigate();
  const [plan, setPlan] = useState({});
  const [started, setStarted] = useState({});
  const [form, setForm] = useState({ database: "", procedure: mayStart[0] ?? "recover_point_in_time", table: "" });
  const wanted = { moment: new Date(moment).toISOString(), repository };
  useEffect(() => {
    ask(`clusters/${cluster}/plan`, wanted).then((data) => setPlan({ data }), (error) => setPlan({ error }));
  }, []);
  const start = () => {
    setStarted({ busy: true });
    const asked = { ...wanted, database: form.database || null, procedure: form.procedure, table: form.table || null };
    ask(`clusters/${cluster}/recoveries`, asked).then(
      (run) => navigate(runPath(run.dag_id, run.run_id)),
      (error) => { setStarted({ error }); refresh(); },
    );
  };
  const set = (name) => (value) => setForm({ ...form, [name]: value });
  const choices = mayStart.map((name) => [name, PROCEDURES[name]]);
  return h(Dialog.Root, { onOpenChange: ({ open }) => open || onClose(), open: true, scrollBehavior: "inside", size: "lg" },
    h(Portal, null, h(Dialog.Backdrop), h(Dialog.Positioner, null, h(Dialog.Content, { "data-testid": "plan" },
      h(Dialog.Header, null, h(Dialog.Title, null, `Recover ${cluster} to ${utc(moment)}`)),
      h(Dialog.Body, null,
        !plan.data && !plan.error && h(Loading),
        plan.error && h(Failure, { cluster, error: plan.error }),
        plan.error?.kind === "refused" && h(Text, { mb: 3 }, "If it lies behind what is archived yet: the run asks the server for its newest WAL, then it decides."),
        plan.data && h(Markdown, { text: plan.data.text }),
        choices.length > 0 && h(Field, { label: "What to recover", onChange: set("procedure"), options: choices, value: form.procedure }),
        form.procedure !== "recover_point_in_time" && h(Field, { label: "Database (empty: the only one)", onChange: set("database"), value: form.database }),
        form.procedure === "recover_table" && h(Field, { label: "Table, as schema.table (empty: you choose it in the run)", onChange: set("table"), value: form.table }),
        h(Text, { color: "fg.muted", fontSize: "sm" }, "The run plans it once more and then asks for an approval: nothing is touched before."),
        started.error && (started.error.run ? h(UnderWay, { run: started.error.run }) : h(Failure, { cluster, error: started.error })),
        choices.length === 0 && h(Notice, { status: "info", title: "You may look, and you may not start it" }, "Starting needs the right to trigger the recovery's DAG.")),
      h(Dialog.Footer, null,
        h(Button, { onClick: onClose, variant: "outline" }, "Close"),
        h(Button, { colorPalette: "red", disabled: choices.length === 0 || started.busy, loading: started.busy, onClick: start }, "Start the recovery"))))));
};

export const Picker = ({ cluster, mayStart, moment, onPick, overview, refresh, skew }) => {
  const [text, setText] = useState(utc(moment));
  const [repository, setRepository] = useState("local");
  const [open, setOpen] = useState(false);
  useEffect(() => setText(utc(moment)), [moment]);
  const typed = parseMoment(text);
  const enter = () => (Number.isNaN(typed) ? undefined : onPick(typed));
  const names = overview ? overview.repositories.map((one) => [one.name, one.name]) : [["local", "local"]];
  return h(Box, { as: "section", "aria-label": "pick a moment", mt: 4 },
    h(Heading, { mb: 2, size: "md" }, "Recover to a moment"),
    h(Flex, { align: "end", gap: 3, wrap: "wrap" },
      h(Box, { flex: "1 1 16rem", maxW: "24rem" }, h("label", null, h(Text, { fontSize: "sm" }, "Moment (UTC unless it names another zone)"),
        h(Input, { "aria-invalid": Number.isNaN(typed), "aria-label": "moment", onBlur: enter, onChange: (event) => setText(event.target.value),
          onKeyDown: (event) => event.key === "Enter" && enter(), value: text }))),
      names.length > 1 && h(Box, { flex: "0 1 12rem" }, h(Field, { label: "From the copies in", onChange: setRepository, options: names, value: repository })),
      h(Button, { disabled: Number.isNaN(typed), onClick: () => { enter(); setOpen(true); } }, "Show the plan")),
    h(Text, { "aria-live": "polite", color: Number.isNaN(typed) ? "fg.error" : "fg.muted", fontSize: "sm", mt: 1 },
      Number.isNaN(typed)
        ? "Not a moment: write it as 2026-01-31 14:03:19 UTC"
        : `${local(typed)} in your browser${overview ? `, ${isReachable(overview, typed) ? "can be recovered" : "lies outside of what can be recovered"}` : ""}`),
    skew > 60 && h(Text, { color: "fg.warning", fontSize: "sm" }, `Your browser's clock (${browserZone()}) differs from Airflow's by ${span(skew)}: the server's counts.`),
    open && h(Plan, { cluster, key: typed, mayStart, moment: typed, onClose: () => setOpen(false), refresh, repository }));
};
