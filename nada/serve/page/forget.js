/* Everything of the visitor's goes, once they say so again: the key as well, for a new one. */
(key) => {
  const button = document.querySelector("#forget-all");
  if (!confirm(`${button.textContent.trim()}?`)) return [""];
  const bytes = crypto.getRandomValues(new Uint8Array(32));
  key = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  try { localStorage.setItem("nada-key", key); } catch {}
  return [key];
}
