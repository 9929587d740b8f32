/* When the page opens: Escape stops a run, and the server learns two things. The browser's key, a
   secret by which it finds the visitor again, and which lies in this browser alone; and what the
   address asks for: texts and a seed, `own` if the page itself wrote them there. */
(key, link) => {
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") document.querySelector("#stop")?.click();
  });
  try {
    key = localStorage.getItem("nada-key");
    if (!/^[0-9a-f]{64}$/.test(key || "")) {
      const bytes = crypto.getRandomValues(new Uint8Array(32));
      key = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
      localStorage.setItem("nada-key", key);
    }
  } catch { key = ""; }  // a browser that lets pages keep nothing
  const asked = new URL(location).searchParams, number = Number(asked.get("seed") ?? NaN);
  link = { own: false };
  try { link.own = sessionStorage.getItem("nada-link") === location.search; } catch {}
  for (const name of ["source", "target"]) {
    if (asked.has(name)) link[name] = asked.get(name).slice(0, 1000);
  }
  if (Number.isInteger(number) && number >= 0) link.seed = number;
  return [key, JSON.stringify(link)];
}
