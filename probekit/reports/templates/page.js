"use strict";
(function () {
  const printed = 680;  // width of A4 between its margins, in pixels
  const plots = [];
  document.querySelectorAll("section").forEach(function (section) {
    const link = document.createElement("a"), item = document.createElement("li");
    link.href = "#" + section.id;
    link.textContent = section.querySelector("h2").textContent;
    item.append(link);
    document.querySelector("nav ul").append(item);
  });
  document.querySelectorAll("figure").forEach(function (figure, index) {
    figure.querySelector(".number").textContent = "Figure " + (index + 1) + ".";
    const gd = figure.querySelector(".plot"), bar = document.createElement("div");
    const value = JSON.parse(figure.querySelector("script").textContent);
    plots.push(gd);
    // Each in its own promise: one that fails does not keep the others from being drawn.
    Promise.resolve().then(() => Plotly.newPlot(gd, value.data, value.layout,
      {responsive: true, displayModeBar: false, doubleClick: false, scrollZoom: false, showTips: false}));
    bar.className = "download";
    ["PNG", "SVG"].forEach(function (format) {
      const button = document.createElement("button");
      button.textContent = format;
      button.setAttribute("aria-label", "Download figure " + gd.id + " as " + format);
      button.addEventListener("click", () => Plotly.downloadImage(gd, {format: format.toLowerCase(),
        scale: format === "PNG" ? 3 : 1, width: gd.clientWidth, height: gd.clientHeight, filename: gd.id}));
      bar.append(button);
    });
    gd.before(bar);
  });
  // A figure in a closed fold has no width until it is opened; print shows all.
  const folds = [...document.querySelectorAll("details.fold")];
  folds.forEach((fold) => fold.addEventListener("toggle", () => fold.open &&
    fold.querySelectorAll(".plot").forEach((gd) => Plotly.Plots.resize(gd))));
  addEventListener("beforeprint", () => folds.forEach((fold) => { fold.open = true; }));
  addEventListener("beforeprint", () => plots.forEach(
    (gd) => Plotly.relayout(gd, {width: Math.min(gd.clientWidth, printed), autosize: false})));
  addEventListener("afterprint", () => plots.forEach(
    (gd) => Plotly.relayout(gd, {width: null, autosize: true})));
})();
