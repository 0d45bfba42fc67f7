// What handlebars.js makes of [template, data] pairs, read as JSON from standard input; null where it raises.
// npm install handlebars@4.7.8 && NODE_PATH=node_modules node tests/handlebars/expect.js
const handlebars = require("handlebars");
const render = ([template, data]) => {
  try {
    return handlebars.compile(template, { noEscape: true, strict: true })(data);
  } catch {
    return null;
  }
};
const pairs = JSON.parse(require("fs").readFileSync(0, "utf-8"));
console.log(JSON.stringify(pairs.map(render)));
