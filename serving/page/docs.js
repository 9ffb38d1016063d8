// The endpoint's description, written out of its OpenAPI document; nothing is loaded from elsewhere.

const make = (tag, text = "", ...children) => {
  const element = document.createElement(tag);
  element.append(text, ...children);
  return element;
};

const description = await (await fetch("../openapi.json")).json();

/** A schema by its reference. */
const found = (schema) => (schema?.$ref ? description.components.schemas[schema.$ref.split("/").pop()] : schema);

/** What values a schema allows, in a few words. */
function kind(schema = {}) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.anyOf) return [...new Set(schema.anyOf.filter((one) => one.type !== "null").map(kind))].join(" or ");
  if (schema.type === "array") return `list of ${kind(schema.items)}`;
  return schema.contentMediaType ? "file" : (schema.type ?? "anything");
}

const row = (name, schema, about, required) =>
  make("tr", "", make("td", "", make("code", name)), make("td", required ? `${kind(schema)}, required` : kind(schema)), make("td", about ?? ""));

function table(title, rows) {
  if (!rows.length) return "";
  return make("div", "", make("h4", title), make("table", "", make("tbody", "", ...rows)));
}

const fields = (schema) =>
  Object.entries(found(schema)?.properties ?? {}).map(([name, field]) =>
    row(name, field, field.description, found(schema).required?.includes(name)),
  );

function operation(method, path, { description: about, parameters = [], requestBody, responses }) {
  const sent = Object.values(requestBody?.content ?? {})[0]?.schema;
  const body = sent?.anyOf?.find((one) => one.$ref) ?? sent;
  const answered = responses[200]?.content?.["application/json"]?.schema;
  return make(
    "section",
    "",
    make("h3", "", make("code", `${method.toUpperCase()} ${path}`)),
    make("p", about ?? ""),
    table("Parameters", parameters.map((one) => row(one.name, one.schema, one.description, one.required))),
    table("Body", fields(body)),
    table("Answer", fields(answered)),
    table(
      "Statuses",
      Object.entries(responses).map(([status, answer]) => make("tr", "", make("td", "", make("code", status)), make("td", answer.description))),
    ),
  );
}

const about = document.getElementById("about");
about.append(...description.info.description.split("\n\n").map((text) => make("p", text)));
for (const [path, methods] of Object.entries(description.paths)) {
  for (const [method, told] of Object.entries(methods)) document.querySelector("main").append(operation(method, path, told));
}
