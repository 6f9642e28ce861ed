// Reads CSV (RFC 4180) as strictly as score_csv does, and writes it in the same way.

export class TableProblem extends Error {}

/** Yield the rows of a text, each an array of fields; blank lines are not rows. */
export function* rows(text, delimiter = ",") {
  const plain = new RegExp(`[^${delimiter}\r\n]*`, "y");
  let at = 0;
  for (let number = 0; at < text.length; number++) {
    const fields = [];
    do {
      if (fields.length) at++; // skip the delimiter
      if (text[at] === '"') {
        const start = at + 1;
        do {
          at = text.indexOf('"', at + 1) + 1;
          if (!at) throw new TableProblem(`${where(number)} has a quotation mark that is never closed.`);
        } while (text[at] === '"');
        fields.push(text.slice(start, at - 1).replaceAll('""', '"'));
        if (at < text.length && !`${delimiter}\r\n`.includes(text[at])) {
          throw new TableProblem(`${where(number)} has text after a closing quotation mark.`);
        }
      } else {
        plain.lastIndex = at;
        fields.push(plain.exec(text)[0]);
        at = plain.lastIndex;
      }
    } while (text[at] === delimiter);
    const blank = fields.length === 1 && fields[0] === "" && text[at - 1] !== '"';
    at += text.startsWith("\r\n", at) ? 2 : 1;
    if (blank) number--;
    else yield fields;
  }
}

/** Return {header, rows, url, caption}: the rows of a table and the indices of its two columns; raise TableProblem if they cannot be read. */
export function table(text, most) {
  if (text.includes("\0")) throw new TableProblem("This is not a CSV file: it contains NUL bytes.");
  const first = /^[\r\n]*([^\r\n]*)/.exec(text)[1];
  const delimiter = [",", "\t", ";"].find((mark) => first.includes(mark)) ?? ",";
  const all = [];
  for (const fields of rows(text, delimiter)) {
    const width = all.length ? all[0].length : fields.length;
    if (fields.length !== width) {
      throw new TableProblem(
        `${where(all.length)} has ${fields.length} field${fields.length === 1 ? "" : "s"}, but the header has ${width}. Quote the fields that contain a “${delimiter}”.`,
      );
    }
    all.push(fields);
    if (all.length > most + 1) {
      throw new TableProblem(`This page accepts at most ${most.toLocaleString("en")} rows; for more, use text-image-similarity score.`);
    }
  }
  if (!all.length) throw new TableProblem("The table is empty; it needs a header line with the columns url and caption.");
  const [header] = all;
  const place = (wanted) => {
    const found = header.flatMap((name, i) => (name.trim().toLowerCase() === wanted ? [i] : []));
    if (found.length === 1) return found[0];
    const shown = header.slice(0, 8).map((name) => name.slice(0, 40)).join(", ").slice(0, 200);
    throw new TableProblem(`The column ${wanted} is ${found.length ? "in the table more than once" : "missing"}; the header is: ${shown}`);
  };
  const places = { url: place("url"), caption: place("caption") };
  if (all.length === 1) throw new TableProblem("The table has a header but no rows.");
  return { header, rows: all.slice(1), ...places };
}

/** Return rows as CSV text, as Python's csv module writes them with line feeds. */
export function spell(lines) {
  return lines.map((fields) => {
    const all = fields.some((field) => field.includes("\r"));
    return fields.map((field) => (all || /[",\n]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field)).join(",") + "\n";
  }).join("");
}

/** Return a number like Python's repr: 1.0 and 5e-05, not 1 and 0.00005. */
export function repr(number) {
  if (Number.isInteger(number)) return `${Object.is(number, -0) ? "-" : ""}${number}.0`;
  return Math.abs(number) < 1e-4 ? number.toExponential().replace(/e-(\d)$/, "e-0$1") : String(number);
}

function where(number) {
  return number ? `Row ${number}` : "The header";
}
