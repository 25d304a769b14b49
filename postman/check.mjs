// What the collections must be before anybody runs them: node postman/check.mjs
//
// Importable (v2.1, one variable), told (a description, an example and an assertion on every request), free of secrets,
// and whole: every operation of the OpenAPI documents and every one of the assignment's names is called.
import { readFileSync } from "node:fs";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json";
const SERVICES = { UserManager: "user_manager", DataCollector: "data_collector" };
const wrong = [];

// Folders and requests, as deep as they lie.
const flat = (items) => items.flatMap((item) => (item.item ? [item, ...flat(item.item)] : [item]));

const script = (item, listen) =>
  (item.event ?? []).filter((event) => event.listen === listen).flatMap((event) => event.script.exec).join("\n");

// `GET /interests/{icao}`, as the documents say it; without the service's prefix.
function operation({ method, url }, service) {
  const path = url.raw.split("?")[0].replace(`{{base_url}}/${service}`, "");
  return `${method} ${path.replace(/:(\w+)/g, "{$1}")}`;
}

// The operations of a document and the statuses of each. The documents keep to one layout, so that lines do.
function documented(service) {
  const operations = new Map();
  let path, statuses;
  for (const line of read(`../docs/openapi/${service}.yaml`).split("\n")) {
    const [, newPath] = line.match(/^  (\/\S*):$/) ?? [];
    const [, method] = line.match(/^    (get|put|post|patch|delete):$/) ?? [];
    const [, status] = line.match(/^        "(\d{3})":/) ?? [];
    if (line === "components:") break;
    if (newPath) path = newPath;
    if (method) operations.set(`${method.toUpperCase()} ${path}`, (statuses = new Set()));
    if (status) statuses.add(Number(status));
  }
  if (operations.size === 0) wrong.push(`${service}.yaml has no operations that this check can read`);
  return operations;
}

// The assignment's names, as data_collector routes them.
function aliases() {
  const routes = read("../data_collector/src/seed_routes.rs").matchAll(/\("(\/[^"]+)", (get|put|post|patch|delete)\(/g);
  const names = [...routes].map(([, path, method]) => `${method.toUpperCase()} ${path}`);
  if (names.length === 0) wrong.push("seed_routes.rs has no routes that this check can read");
  return names;
}

function checkRequest(item, say, known, service) {
  const { request } = item;
  if (!request.description) say("has no description");
  if (!script(item, "test").includes("pm.test(")) say("asserts nothing");
  if (!request.url.raw.startsWith("{{base_url}}/")) say("does not begin with {{base_url}}");
  if (!item.response?.length) say("has no example");
  const statuses = known.get(operation(request, service));
  for (const { code } of statuses ? (item.response ?? []) : []) {
    if (!statuses.has(code)) say(`has an example that the document does not know: ${code}`);
  }
  for (const [, field, value] of (request.body?.raw ?? "").matchAll(/"(password|current|new)": "([^"]*)"/g)) {
    if (!/^{{\$?\w+}}$/.test(value)) say(`has a ${field} that is written out`);
  }
}

function check(name, service) {
  const text = read(`${name}.postman_collection.json`);
  const collection = JSON.parse(text);
  const complain = (what) => wrong.push(`${name}: ${what}`);

  if (collection.info.schema !== SCHEMA) complain("is not a collection of version 2.1");
  const variables = (collection.variable ?? []).map(({ key, value }) => `${key}=${value}`);
  if (variables.join() !== "base_url=https://localhost:8443") complain(`has the variables ${variables.join(", ")}`);
  if (/eyJ[\w-]{8,}\.[\w-]*/.test(text)) complain("holds a token");
  if (/-----BEGIN [A-Z ]*KEY/.test(text)) complain("holds a key");
  for (const [address] of text.matchAll(/[\w.+-]+@[\w-]+(\.[\w-]+)+/g)) {
    if (!address.endsWith("@example.com")) complain(`holds the address ${address}`);
  }

  const items = flat(collection.item);
  const requests = items.filter((item) => item.request);
  for (const { name: folder, description } of items.filter((item) => item.item)) {
    if (!description) complain(`folder "${folder}" has no description`);
  }
  const known = documented(service);
  for (const item of requests) checkRequest(item, (what) => complain(`"${item.name}" ${what}`), known, service);

  // A request repeats itself by its name.
  const names = requests.map((item) => item.name);
  for (const twice of new Set(names.filter((name, n) => names.indexOf(name) !== n))) complain(`"${twice}" is there twice`);

  const called = new Set(requests.map((item) => operation(item.request, service)));
  const wanted = [...known.keys(), ...(service === "data_collector" ? aliases() : [])];
  for (const missing of new Set(wanted.filter((operation) => !called.has(operation)))) complain(`nothing calls ${missing}`);
  return `${name}: ${requests.length} requests, all ${known.size} operations`;
}

const told = Object.entries(SERVICES).map(([name, service]) => check(name, service));
if (wrong.length > 0) {
  console.error(wrong.join("\n"));
  process.exit(1);
}
console.log(told.join("\n"));
