"use strict";
(() => {
  const replay = JSON.parse(document.getElementById("replay").textContent);
  const steps = replay.steps, last = steps.length - 1;
  const scrub = document.getElementById("scrub");
  let shown = last;

  // camera [3x4] times pose [3x4, last row 0 0 0 1] times point, divided by the third coordinate
  function project(camera, pose, p) {
    const w = [0, 1, 2].map(i => pose[4*i]*p[0] + pose[4*i+1]*p[1] + pose[4*i+2]*p[2] + pose[4*i+3]);
    const q = [0, 1, 2].map(i => camera[4*i]*w[0] + camera[4*i+1]*w[1] + camera[4*i+2]*w[2] + camera[4*i+3]);
    return [q[0] / q[2], q[1] / q[2]];
  }
  const says = k => {
    const s = steps[k];
    const cost = s.cost === null ? "" : ", cost " + s.cost.toPrecision(4);
    return "iterate " + k + " of " + last + " (level " + s.level + cost + ")";
  };

  const stages = [...document.querySelectorAll(".stage")].map(stage => {
    const svg = stage.querySelector("svg"), box = svg.viewBox.baseVal, slider = stage.querySelector(".slider");
    const key = "x" + stage.dataset.exposure, camera = replay.cameras[stage.dataset.exposure];
    const left = document.querySelector("#" + key + "-cl rect"), right = document.querySelector("#" + key + "-cr rect");
    const line = svg.querySelector(".wipe"), layer = svg.querySelector(".m-replay"), output = stage.querySelector(".says");
    const tags = [svg.querySelector(".tag-left"), svg.querySelector(".tag-right")];
    const radius = Math.max(1.5, box.width / 300);
    const dots = replay.points.map(() => layer.appendChild(Object.assign(document.createElementNS(svg.namespaceURI, "circle"))));
    dots.forEach(d => d.setAttribute("r", radius));
    const mode = () => stage.querySelector(".modes input:checked").value;
    const drawPoints = () => replay.points.forEach((p, i) => {
      const q = project(camera, steps[shown].pose, p);
      dots[i].setAttribute("cx", q[0].toFixed(1)); dots[i].setAttribute("cy", q[1].toFixed(1));
    });
    const draw = () => {
      const m = mode(), x = box.width * slider.value / slider.max;
      for (const name of ["contours", "wipe", "replay"]) svg.querySelector(".m-" + name).toggleAttribute("hidden", m !== name);
      line.toggleAttribute("hidden", m === "replay");
      svg.querySelector(".tags").toggleAttribute("hidden", m === "replay");
      stage.classList.toggle("wipe-mode", m === "wipe");
      if (m === "replay") { drawPoints(); output.textContent = says(shown) + ": points of the model over the exposure"; return; }
      left.setAttribute("width", x); right.setAttribute("x", x); right.setAttribute("width", box.width - x);
      line.setAttribute("x1", x); line.setAttribute("x2", x);
      tags[0].textContent = m === "wipe" ? "X-ray" : "before"; tags[1].textContent = m === "wipe" ? "model" : "after";
      output.textContent = m === "wipe" ? "Left: the exposure. Right: the model at the final pose."
        : "Left: contours of the model at the start. Right: at the final pose.";
    };
    const range = () => {
      const r = mode() === "replay";
      slider.max = r ? last : 1000; slider.value = r ? shown : 500;
      slider.setAttribute("aria-label", r ? "Iterate" : "Position of the divider");
    };
    slider.addEventListener("input", () => mode() === "replay" ? go(+slider.value) : draw());
    stage.querySelectorAll(".modes input").forEach(i => i.addEventListener("change", () => { range(); draw(); }));
    const drag = e => {
      if (!(e.buttons & 1)) return;
      const b = svg.getBoundingClientRect();
      slider.value = Math.round(slider.max * Math.min(1, Math.max(0, (e.clientX - b.left) / b.width)));
      slider.dispatchEvent(new Event("input"));
    };
    svg.addEventListener("pointerdown", drag); svg.addEventListener("pointermove", drag);
    return { start: () => { range(); draw(); }, follow: () => { if (mode() === "replay") { slider.value = shown; draw(); } } };
  });

  function go(k) {
    shown = k;
    stages.forEach(s => s.follow());
    if (!scrub) return;
    scrub.value = k;
    document.getElementById("scrub-says").textContent = says(k);
    document.querySelectorAll(".chart .cursor").forEach(c => {
      const d = c.ownerSVGElement.dataset, x = +d.left + k / (+d.last || 1) * (d.right - d.left);
      c.setAttribute("x1", x); c.setAttribute("x2", x);
    });
  }
  if (scrub) scrub.addEventListener("input", () => go(+scrub.value));
  stages.forEach(s => s.start());
  go(last);

  document.querySelectorAll(".copy").forEach(button => button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try { await navigator.clipboard.writeText(code.textContent); }
    catch {  // a page opened from a file may not use the clipboard: select the text and ask the old way
      const range = document.createRange(); range.selectNodeContents(code);
      const selection = getSelection(); selection.removeAllRanges(); selection.addRange(range);
      document.execCommand("copy");
    }
    button.textContent = "Copied"; setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }));
})();
