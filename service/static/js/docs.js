// The API's documentation, rendered from /openapi.json: no other host, no library.

const main = document.getElementById("docs");

function make(tag, className = "", text = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  element.append(...children);
  return element;
}

/** A schema in a few words; `fields` collects one row per property. */
function describe(schema, all) {
  if (!schema) return "";
  if (schema.$ref) return describe(all[schema.$ref.split("/").pop()], all);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return [...new Set(schema.anyOf.map((one) => describe(one, all)))].join(" | ");
  if (schema.type === "array") return `[${describe(schema.items, all)}]`;
  if (schema.type === "object" && !schema.properties) return "object";
  if (schema.type === "object") return `{${Object.keys(schema.properties).join(", ")}}`;
  return schema.format ?? schema.type ?? "any";
}

const resolve = (schema, all) => (schema?.$ref ? resolve(all[schema.$ref.split("/").pop()], all) : schema);

function table(rows) {
  const body = make("table");
  for (const [name, type, text] of rows) {
    body.append(make("tr", "", "", make("td", "", "", make("code", "", name)), make("td", "", "", make("code", "", type)), make("td", "", text)));
  }
  return body;
}

function fields(schema, all) {
  const { properties = {}, required = [], items } = resolve(schema, all) ?? {};
  if (items) return fields(items, all);
  return Object.entries(properties).map(([name, one]) => {
    const standard = one.default === undefined || one.default === null ? "" : `default ${JSON.stringify(one.default)}. `;
    return [name + (required.includes(name) ? " *" : ""), describe(one, all), standard + (one.description ?? "")];
  });
}

function operation(method, path, op, all) {
  const summary = make("summary", "", "", make("b", "method", method.toUpperCase()), make("code", "", path), make("span", "", op.summary ?? ""));
  const body = make("div", "body");
  if (op.description) body.append(prose(op.description));
  if (op.parameters?.length) {
    body.append(make("h3", "", "Parameters"));
    body.append(table(op.parameters.map((p) => [p.name + (p.required ? " *" : ""), `${p.in}: ${describe(p.schema, all)}`, p.description ?? p.schema?.description ?? ""])));
  }
  for (const [type, { schema }] of Object.entries(op.requestBody?.content ?? {})) {
    body.append(make("h3", "", `Body: ${type}`), table(fields(schema, all)));
  }
  for (const [status, { description, content }] of Object.entries(op.responses)) {
    if (!status.startsWith("2")) continue;  // errors all look the same; the top of the page shows how
    body.append(make("h3", "", `Answer: ${status} ${description}`));
    body.append(table(fields(content?.["application/json"]?.schema, all)));
  }
  return make("details", "", "", summary, body);
}

/** A paragraph in which `code` is code. */
function prose(text) {
  const parts = text.split("`").map((part, i) => (i % 2 ? make("code", "", part) : part));
  return make("p", "", "", ...parts);
}

const spec = await fetch("/openapi.json").then((response) => response.json());
const all = spec.components?.schemas ?? {};
const groups = new Map();
for (const [path, methods] of Object.entries(spec.paths)) {
  for (const [method, op] of Object.entries(methods)) {
    const tag = op.tags?.[0] ?? "other";
    groups.set(tag, [...(groups.get(tag) ?? []), operation(method, path, op, all)]);
  }
}
main.replaceChildren(make("h1", "", `${spec.info.title} API ${spec.info.version}`), prose(spec.info.description ?? ""));
for (const [tag, operations] of groups) main.append(make("h2", "", tag), ...operations);
const link = make("a", "", "/openapi.json");
link.href = "/openapi.json";
main.append(make("p", "status", "", link));
