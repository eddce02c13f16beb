// The tab "MLflow" on a DAG run's page: links to its run in MLflow, and to those of its tasks.
//
// Airflow loads this file into its own page, with React as `globalThis.React`, and takes the component from
// `globalThis.AirflowPlugin`. What it shows comes from Airflow's own API, with the rights of whoever looks at it.

const KEYS = { parent: "tracklayer_parent_url", task: "tracklayer_url" };
const MOST = 100; // so many runs of tasks are listed; Airflow's API is asked once for each

const { createElement: e, useEffect, useState } = globalThis.React;

const ask = async (path, query = {}) => {
  const url = new URL(`api/v2/${path}`, document.baseURI);
  Object.entries(query).forEach(([name, value]) => url.searchParams.set(name, value));
  const answer = await fetch(url, { credentials: "same-origin", headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`Airflow's API answered ${answer.status} for ${url.pathname}`);
  return answer.json();
};

const isPage = (url) => typeof url === "string" && /^https?:\/\//.test(url);

const page = async (run, entry) => {
  const task = encodeURIComponent(entry.task_id);
  const found = await ask(`${run}/taskInstances/${task}/xcomEntries/${entry.key}`, { map_index: entry.map_index });
  const url = typeof found.value === "string" ? found.value.replace(/^"(.*)"$/, "$1") : null;
  const name = entry.map_index >= 0 ? `${entry.task_id} [${entry.map_index}]` : entry.task_id;
  return isPage(url) ? { name, url } : null;
};

const entries = async (run, key, limit) => {
  const found = await ask(`${run}/taskInstances/~/xcomEntries`, { xcom_key_pattern: key, limit });
  return { all: found.total_entries, listed: found.xcom_entries.filter((entry) => entry.key === key) };
};

const load = async (dagId, runId) => {
  const run = `dags/${encodeURIComponent(dagId)}/dagRuns/${encodeURIComponent(runId)}`;
  const [parents, tasks] = await Promise.all([entries(run, KEYS.parent, 5), entries(run, KEYS.task, MOST)]);
  const pages = (listed) => Promise.all(listed.map((entry) => page(run, entry)));
  const [parent] = (await pages(parents.listed)).filter(Boolean);
  const found = (await pages(tasks.listed)).filter(Boolean);
  found.sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
  return { parent: parent?.url, tasks: found, more: tasks.all - tasks.listed.length };
};

const link = (url, text) =>
  e("a", { href: url, target: "_blank", rel: "noopener noreferrer", style: { textDecoration: "underline" } }, text);

const DagRunInMLflow = ({ dagId, runId }) => {
  const [state, setState] = useState({});
  useEffect(() => {
    let here = true;
    setState({});
    load(dagId, runId).then(
      (found) => here && setState({ found }),
      (error) => here && setState({ error }),
    );
    return () => {
      here = false;
    };
  }, [dagId, runId]);
  const { found, error } = state;
  let content = e("p", null, "Looking for the runs of this DAG run …");
  if (error) {
    content = e("p", { role: "alert" }, `The runs cannot be shown: ${error.message}`);
  } else if (found && !found.parent && !found.tasks.length) {
    content = e("p", null, "Nothing of this DAG run is tracked in MLflow, or nothing yet.");
  } else if (found) {
    content = [
      found.parent && e("p", { key: "parent" }, link(found.parent, "This DAG run in MLflow")),
      found.tasks.length > 0 && e("h3", { key: "title", style: { fontWeight: "bold", marginTop: "1em" } }, "Its tasks"),
      e(
        "ul",
        { key: "tasks", style: { listStyle: "disc", paddingInlineStart: "1.5em" } },
        found.tasks.map(({ name, url }) => e("li", { key: name }, link(url, name))),
      ),
      found.more > 0 && e("p", { key: "more" }, `and ${found.more} more`),
    ];
  }
  return e("div", { id: "tracklayer-dag-run", style: { padding: "1em", overflow: "auto", height: "100%" } }, content);
};

globalThis.AirflowPlugin = DagRunInMLflow;
