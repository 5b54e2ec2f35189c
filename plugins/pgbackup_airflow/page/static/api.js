// The page's routes. Every failure is an Answer's error: { kind, message, hint, run }.
import { useCallback, useEffect, useState } from "./host.js";

const REFRESH = 30_000;

const address = (path) => new URL(`pgbackup/api/${path}`, document.baseURI);

const explain = (status, body) => {
  const detail = body?.detail ?? body ?? {};
  const message = typeof detail === "string" ? detail : (detail.message ?? "the request is not valid");
  const kind = { 401: "login", 403: "permission", 409: "refused", 503: "unavailable" }[status] ?? "error";
  return { kind, message, values: body?.values, hint: body?.hint, run: detail.run };
};

export const ask = async (path, body) => {
  const options = body && {
    body: JSON.stringify(body),
    headers: { "Content-Type": "application/json" },
    method: "POST",
  };
  let response;
  try {
    response = await fetch(address(path), options);
  } catch {
    throw { kind: "network", message: "Airflow's API server does not answer" };
  }
  const answer = await response.json().catch(() => undefined);
  if (!response.ok) throw explain(response.status, answer);
  return answer;
};

// { data, at, error }: asked at once, and again every half minute while somebody looks; old data stays beside an error.
export const useAnswer = (path) => {
  const [answer, setAnswer] = useState({});
  const refresh = useCallback(
    () =>
      path &&
      ask(path).then(
        (data) => setAnswer({ at: Date.now(), data, path }),
        (error) => setAnswer((before) => ({ ...(before.path === path ? before : {}), error, path })),
      ),
    [path],
  );
  useEffect(() => {
    const again = () => document.visibilityState === "visible" && refresh();
    refresh();
    const timer = setInterval(again, REFRESH);
    document.addEventListener("visibilitychange", again);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", again);
    };
  }, [refresh]);
  return answer.path === path ? { ...answer, refresh } : { refresh };
};
