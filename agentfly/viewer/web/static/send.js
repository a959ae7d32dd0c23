// Requests of pages to their server; those of other sites cannot send this header.
export const HEADERS = { "X-Agentfly": "view" };

/** Post a value as JSON. Returns the answer's value; throws an Error with the words of the server. */
export async function post(address, value, options = {}) {
  const headers = { ...HEADERS, "Content-Type": "application/json" };
  return read(await reach(address, { method: "POST", headers, body: JSON.stringify(value), ...options }));
}

/** Fetch, with words for a server that does not answer. */
export async function reach(address, options) {
  try {
    return await fetch(address, options);
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new Error("The viewer does not answer. Is it still running?");
  }
}

/** Return the value of an answer; throws an Error with the words of the server. */
export async function read(answer) {
  const value = await answer.json().catch(() => ({}));
  const fault = value.error?.message ?? value.error;
  if (!answer.ok) throw new Error(fault ?? `The viewer answered ${answer.status}.`);
  return value;
}
