// The faces of the Recovery page: the page itself, the tile on Home, the tab on our DAGs; Airflow finds them by name.
import { Box, Flex, h, Heading, Text, useEffect, useLocation, useSearchParams, useState } from "./host.js";
import { ask, useAnswer } from "./api.js";
import { Cluster } from "./cluster.js";
import { span } from "./format.js";
import { Failure, Level, Loading, Notice, To } from "./parts.js";

const PAGE = "/plugin/recovery";

const Line = ({ one }) =>
  h(Flex, { align: "center", borderBottomWidth: 1, "data-cluster": one.cluster, gap: 3, py: 1, wrap: "wrap" },
    h(Box, { fontWeight: "bold", minW: "8rem" }, h(To, { path: `${PAGE}?cluster=${one.cluster}` }, one.cluster)),
    h(Level, { level: one.level }),
    h(Text, { fontSize: "sm" }, one.latest
      ? `would lose ${span(one.loss_seconds)} at most, back in ${span(one.predicted_seconds)}`
      : "no moment is known that can be recovered"),
    one.problems.length > 0 && h(Text, { color: "fg.error", fontSize: "sm" }, one.problems.map((problem) => problem.name).join(" · ")));

const Lines = () => {
  const { data, error } = useAnswer("clusters");
  if (error) return h(Failure, { error });
  if (!data) return h(Loading);
  if (!data.length) return h(Notice, { title: "There is no cluster that you may see" }, "Ask for the right to read its DAGs.");
  return data.map((one) => h(Line, { key: one.cluster, one }));
};

const Page = () => {
  const [query] = useSearchParams();
  const cluster = query.get("cluster");
  const { data } = useAnswer(cluster ? undefined : "clusters");
  const shown = cluster ?? data?.[0]?.cluster;
  return h(Box, { maxW: "80rem", overflowY: "auto", p: { base: 2, md: 4 } },
    h(Heading, { as: "h1", mb: 2, size: "xl" }, "Recovery"),
    h(Box, { mb: 6 }, h(Lines)),
    shown && h(Cluster, { cluster: shown, key: shown }));
};

const Tile = () =>
  h(Box, { borderRadius: "md", borderWidth: 1, "data-testid": "recovery-tile", mb: 4, order: -1, p: 4 },
    h(Heading, { mb: 2, size: "md" }, "Recovery"), h(Lines));

const ownDags = ask("dags").catch(() => []);

const useOwnDags = () => {
  const [dags, setDags] = useState();
  useEffect(() => { ownDags.then(setDags); }, []);
  return dags;
};

const Tab = ({ dagId }) => {
  const own = useOwnDags()?.find((one) => one.dag_id === dagId);
  return own ? h(Box, { p: 3 }, h(Cluster, { cluster: own.cluster })) : null;
};

// The host shows a plugin's tab on every DAG: on those that are not ours it is taken out of sight.
const Tabs = () => {
  const dags = useOwnDags();
  const dagId = /^\/dags\/([^/]+)/u.exec(useLocation().pathname)?.[1];
  const own = dagId && dags?.some((one) => one.dag_id === decodeURIComponent(dagId));
  return own ? null : h("style", null, 'a[href*="/plugin/recovery-of"] { display: none }');
};

globalThis.Recovery = (props) => (props.dagId ? h(Tab, props) : h(Page));
globalThis["Recovery tile"] = Tile;
globalThis["Recovery tabs"] = Tabs;
