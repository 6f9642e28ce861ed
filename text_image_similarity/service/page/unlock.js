// The form that asks for a key, the same on every page.

import { setKey } from "./service.js";

const byId = (id) => document.getElementById(id);

/** Show the form, because the service has refused a request for lack of a valid key. */
export function lock() {
  byId("unlock").hidden = false;
  byId("key").focus();
}

/** Let the form accept a key: `connect()` tries it with the service, then `done()` continues. */
export function whenUnlocked(connect, done) {
  byId("unlock").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = byId("key").value.trim();
    const note = byId("key-note");
    if (!/^[!-~]+$/.test(key)) {
      note.textContent = "An API key consists of ASCII letters, digits and symbols, without spaces.";
      return;
    }
    setKey(key);
    byId("key").value = "";
    connect().then(
      () => {
        byId("unlock").hidden = true;
        done();
      },
      (problem) => {
        note.textContent = problem.status === 401 ? "The service does not accept this key." : problem.message;
      },
    );
  });
}
