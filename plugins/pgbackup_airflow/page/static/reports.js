// Reports of reviews, audits and drills. One is shown in a frame in which nothing can run, whatever is written in it.
import { Box, Button, Dialog, h, Portal, useEffect, useState } from "./host.js";
import { ask, useAnswer } from "./api.js";
import { utc } from "./format.js";
import { Failure, Loading, Rows, Section } from "./parts.js";

const Reading = ({ cluster, onClose, report }) => {
  const [{ data, error }, setAnswer] = useState({});
  useEffect(() => {
    ask(`clusters/${cluster}/reports/${report.name}`).then((answer) => setAnswer({ data: answer }), (failed) => setAnswer({ error: failed }));
  }, []);
  return h(Dialog.Root, { onOpenChange: ({ open }) => open || onClose(), open: true, size: "xl" },
    h(Portal, null, h(Dialog.Backdrop), h(Dialog.Positioner, null, h(Dialog.Content, { "data-testid": "report" },
      h(Dialog.Header, null, h(Dialog.Title, null, report.headline)),
      h(Dialog.Body, null,
        error && h(Failure, { cluster, error }),
        !data && !error && h(Loading),
        data && h(Box, { as: "iframe", bg: "white", h: "70vh", sandbox: "", srcDoc: data.html, title: report.headline, w: "full" })),
      h(Dialog.Footer, null, h(Button, { onClick: onClose, variant: "outline" }, "Close"))))));
};

export const Reports = ({ cluster }) => {
  const { data, error } = useAnswer(`clusters/${cluster}/reports`);
  const [report, setReport] = useState();
  return h(Section, { title: "Reports" },
    error && h(Failure, { cluster, error }),
    !data && !error && h(Loading),
    data && h(Rows, {
      empty: "no review, audit or drill has reported yet", header: ["when", "what", "says", ""],
      rows: data.map((one) => [utc(one.at), one.procedure.replaceAll("_", " "), one.headline,
        h(Button, { "aria-label": `Read ${one.name}`, onClick: () => setReport(one), size: "xs", variant: "outline" }, "Read")]),
    }),
    report && h(Reading, { cluster, key: report.name, onClose: () => setReport(undefined), report }));
};
