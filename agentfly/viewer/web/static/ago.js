// Times in words, such as "3 minutes ago", kept true while the page is open.

function agos() {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const at = new Date(time.dateTime);
    const seconds = Math.max(0, (Date.now() - at) / 1000);
    time.title = at.toLocaleString();
    const [size, name] = seconds < 90 ? [1, "second"] : seconds < 5400 ? [60, "minute"] : seconds < 129600 ? [3600, "hour"] : [86400, "day"];
    time.textContent = new Intl.RelativeTimeFormat("en").format(-Math.round(seconds / size), name);
  }
}

document.addEventListener("exchanged", agos);
agos();
setInterval(agos, 15000);
