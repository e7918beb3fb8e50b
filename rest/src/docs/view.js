// Shows openapi.json and asyncapi.json. Everything is set as text, nothing as markup.

const make = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};

const read = async (path) => {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}`);
  return answer.json();
};

const at = (doc, reference) =>
  reference.slice(2).split("/").reduce((value, key) => value[key.replaceAll("~1", "/").replaceAll("~0", "~")], doc);

// A schema as one would write its JSON down.
const sketch = (doc, schema, indent = "", depth = 0) => {
  if (!schema || depth > 8) return "…";
  if (schema.$ref) return sketch(doc, at(doc, schema.$ref), indent, depth + 1);
  const choice = schema.oneOf || schema.anyOf;
  if (choice) return choice.map((one) => sketch(doc, one, indent, depth + 1)).join(" | ");
  if (schema.allOf) return sketch(doc, schema.allOf[0], indent, depth + 1);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  const types = [schema.type ?? "any"].flat();
  if (types.includes("array")) return `[${sketch(doc, schema.items, indent, depth + 1)}]`;
  if (schema.properties && Object.keys(schema.properties).length > 0) {
    const required = schema.required ?? [];
    const lines = Object.entries(schema.properties).map(([name, of]) => {
      const notes = [of["x-new"] ? "new" : null, bounds(of), of.description].filter(Boolean).join("; ");
      const mark = required.includes(name) ? "" : "?";
      return `${indent}  ${name}${mark}: ${sketch(doc, of, indent + "  ", depth + 1)}${notes ? `  // ${notes}` : ""}`;
    });
    return `{\n${lines.join("\n")}\n${indent}}`;
  }
  return types.map((type) => (type === "string" && schema.format ? schema.format : type)).join(" | ");
};

const bounds = (schema) => {
  const from = schema.minimum ?? schema.minLength;
  const to = schema.maximum ?? schema.maxLength;
  if (from === undefined && to === undefined) return null;
  const unit = schema.minLength !== undefined || schema.maxLength !== undefined ? " characters" : "";
  return `${from ?? ""}–${to ?? ""}${unit}`;
};

const part = (title, ...content) => make("div", {}, make("b", { textContent: title }), ...content);
const code = (text) => make("pre", {}, make("code", { textContent: text }));

const entry = (words, head, ...content) => {
  const details = make("details", {}, make("summary", {}, ...head), make("div", { className: "body" }, ...content));
  details.dataset.words = words.toLowerCase();
  return details;
};

const parameters = (list) =>
  make("table", {}, ...list.map((one) => make("tr", {},
    make("td", {}, make("code", { textContent: one.name })),
    make("td", { className: "quiet", textContent: one.in }),
    make("td", { textContent: [one.description, bounds(one.schema ?? {})].filter(Boolean).join("; ") }))));

const route = (doc, path, method, operation) => {
  const json = (of) => of?.content?.["application/json"]?.schema;
  const answers = Object.entries(operation.responses).map(([status, answer]) =>
    status === "200"
      ? part("200", code(sketch(doc, json(answer))))
      : make("div", {}, make("b", { textContent: status }), ` ${answer.description}`));
  const security = operation.security ?? doc.security;
  const open = security.length === 0 || security.some((one) => Object.keys(one).length === 0);
  return entry(`${method} ${path} ${operation.summary}`,
    [make("span", { className: "method", textContent: method }), make("code", { textContent: path }),
      ` ${operation.summary ?? ""}`, open ? make("span", { className: "tag", textContent: "no token" }) : null],
    operation.description ? make("p", { textContent: operation.description }) : null,
    operation.parameters ? part("Parameters", parameters(operation.parameters)) : null,
    operation.requestBody ? part("Body", code(sketch(doc, json(operation.requestBody)))) : null,
    ...answers);
};

const rest = (doc) => {
  const section = make("section", {}, make("h2", { textContent: "REST" }), make("p", { textContent: doc.info.description }));
  const groups = new Map();
  for (const [path, item] of Object.entries(doc.paths)) {
    for (const [method, operation] of Object.entries(item)) {
      const tag = operation.tags?.[0] ?? "other";
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(route(doc, path, method, operation));
    }
  }
  for (const [tag, routes] of groups) section.append(make("h3", { textContent: tag }), ...routes);
  return section;
};

const frame = (doc, message, operation) => {
  const tags = [message["x-new"] ? "new" : null, message["x-capability"] ? `capability ${message["x-capability"]}` : null];
  const replies = (operation?.reply?.messages ?? []).map((one) => at(doc, at(doc, one.$ref).$ref).name).filter((name) => name !== "error");
  return entry(`${message.name} ${message.summary}`,
    [make("code", { textContent: message.name }),
      ...tags.filter(Boolean).map((text) => make("span", { className: "tag", textContent: text }))],
    make("p", { textContent: message.summary }),
    part("Payload", code(sketch(doc, message.payload.properties.payload))),
    operation ? make("div", {}, make("b", { textContent: "Answer " }), replies.join(", ") || "none to success") : null,
    operation ? make("div", {}, make("b", { textContent: "Reasons " }), operation["x-reasons"].join(", ")) : null);
};

const sockets = (doc) => {
  const section = make("section", {}, make("h2", { textContent: "WebSocket" }), make("p", { textContent: doc.info.description }));
  const messages = Object.entries(doc.components.messages);
  section.append(make("h3", { textContent: "Clients send" }),
    ...messages.filter(([name]) => name.startsWith("to.")).map(([, message]) => frame(doc, message, doc.operations[message.name])));
  section.append(make("h3", { textContent: "The server sends" }),
    ...messages.filter(([name]) => name.startsWith("from.")).map(([, message]) => frame(doc, message)));
  section.append(make("h3", { textContent: "Close codes" }),
    make("table", {}, ...doc.channels.socket["x-close-codes"].map((close) => make("tr", {},
      make("td", { textContent: close.code }), make("td", {}, make("code", { textContent: close.reason })),
      make("td", { textContent: close.advice })))));
  return section;
};

const content = document.getElementById("content");
try {
  const [openapi, asyncapi] = await Promise.all([read("/openapi.json"), read("/asyncapi.json")]);
  content.replaceChildren(rest(openapi), sockets(asyncapi));
} catch (error) {
  content.replaceChildren(make("p", { textContent: `The documents could not be shown: ${error.message}` }));
}

document.getElementById("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const one of content.querySelectorAll("details")) one.hidden = !one.dataset.words.includes(wanted);
});
