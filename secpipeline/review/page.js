"use strict";

const $ = id => document.getElementById(id);
const QUESTIONS = {
  missing: "Is a person missing a label here?",
  ghost: "Is there really a person in this box?",
  location: "Which box fits the person?",
};
const KINDS = {
  missing: "missing label", ghost: "ghost label", location: "badly placed label", sample: "random sample",
};
const ANSWERED = {
  "accept-label": "Label accepted", "accept-suggestion": "Suggestion accepted", redraw: "Redrawn", skip: "Skipped",
};
const STEP = 1.25, MOST_ZOOM = 40, CLICK = 4, HANDLE = 4;
const css = getComputedStyle(document.documentElement);
const COLOUR = Object.fromEntries(["label", "prediction", "drawn"].map(name => [name, css.getPropertyValue("--" + name).trim()]));

let state = null;      // what the server says
let picture = null;    // of the item that is asked about
let region = null;     // the part of the image on the large canvas: x, y, w, h in pixels of the image
let full = false;      // whether all of the image is shown
let edits = null;      // while drawing: [{box_id, new}], else null
let chosen = null;     // while drawing: a label's id, an added entry of edits, a suggested addition, or null
let taken = null;      // while drawing: the suggested additions that are in edits
let drag = null;       // while the mouse is down: where it went down and is, in pixels of the image
let bare = false;      // whether the boxes are hidden
let busy = true;
const tags = [];       // the words beside boxes, drawn over all of them
const pictures = new Map();

async function send(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The review is not running any more: start it again, it goes on from here.");
  }
  const answer = await response.json().catch(() => ({ error: response.statusText }));
  if (!response.ok) throw Object.assign(new Error(answer.error || response.statusText), { stale: response.status === 409 });
  return answer;
}

function load(id) {
  if (!pictures.has(id)) {
    const image = new Image();
    image.src = "picture/" + id;
    const loaded = image.decode().then(() => image);
    loaded.catch(() => {});
    pictures.set(id, loaded);
  }
  return pictures.get(id);
}

async function ask(path, body, said) {
  if (busy) return;
  busy = true;
  try {
    await show(await send(path, body), said);
  } catch (error) {
    if (error.stale) await show(await send("state"), "");
    problem(error.message);
  } finally {
    busy = false;
  }
}

function answer(verdict, drawn = []) {
  if (!state.item || $(verdict).disabled) return;
  ask("decide", { item: state.item.id, verdict, drawn }, ANSWERED[verdict]);
}

function undo() {
  if (state.last) ask("undo", { item: state.last }, "Taken back");
}

async function finish() {
  if (busy) return;
  busy = true;
  try {
    await send("finish", {});
    $("finished").hidden = true;
    $("ended").hidden = false;
    $("ended-title").focus();
  } catch (error) {
    $("status").textContent = $("finished-title").textContent = error.message;
    busy = false;
  }
}

async function show(next, said) {
  state = next;
  edits = chosen = taken = drag = null;
  full = false;
  problem("");
  const item = state.item;
  $("count").textContent = `${state.done} of ${state.total} answered`;
  $("progress").max = state.total;
  $("progress").value = state.done;
  $("review").hidden = !item;
  $("finished").hidden = Boolean(item);
  for (const id of [...pictures.keys()]) if (id !== item?.id && id !== state.next) pictures.delete(id);
  if (!item) {
    showSummary();
    return;
  }
  describe(item);
  picture = null;
  draw();
  try {
    picture = await load(item.id);
  } catch {
    pictures.delete(item.id);
    problem((await send("picture/" + item.id).catch(error => error)).message || "The picture cannot be shown.");
  }
  modes();
  region = home();
  draw();
  $("status").textContent = `${said ? said + ". " : ""}${state.done + 1} of ${state.total}: ${$("question").textContent}`;
  if (picture && state.next) load(state.next);
}

function describe(item) {
  const suggested = item.suggestion.length, one = item.suggestion[0];
  $("kind").textContent = (item.whole ? "whole image · " : "") + (KINDS[item.kind] || item.kind);
  $("question").textContent = item.whole ? "Is every person labelled, once and well?" : QUESTIONS[item.kind];
  $("source").textContent = item.source;
  $("score").textContent = item.score === null ? "–" : item.score.toFixed(2);
  const box = item.label || item.prediction;
  $("size-name").textContent = box ? "Box" : "Labels";
  $("size").textContent = box ? size(box) : item.labels.length;
  $("ignored-legend").hidden = !item.ignored.length;
  const reasons = item.reasons.length ? item.reasons : ["Drawn at random from all images."];
  $("reasons").replaceChildren(...reasons.map(reason => Object.assign(document.createElement("li"), { textContent: reason })));
  $("label-name").textContent = item.whole ? "Accept labels" : "Accept label";
  $("label-means").textContent = item.whole ? "all right, nobody missing" : item.kind === "missing" ? "nobody is missing" : "it is right as it is";
  $("suggestion-means").textContent = suggested > 1 ? `make all ${suggested} changes`
    : !suggested ? "there is none" : one.new === null ? "remove the label" : one.old === null ? "add the box" : "move the label";
  $("redraw-means").textContent = item.whole ? "change boxes" : "drag a box";
  $("picture").setAttribute("aria-label", (item.label ? `Label ${place(item.label)}. ` : "")
    + item.suggestion.map(change => change.new ? `Suggested box ${place(change.new)}. ` : "Suggested: remove a label. ").join(""));
}

const size = box => `${Math.round(box[2] - box[0])} × ${Math.round(box[3] - box[1])} px`;
const place = box => `from ${Math.round(box[0])}, ${Math.round(box[1])} to ${Math.round(box[2])}, ${Math.round(box[3])}`;
const percent = share => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
const times = count => count === 1 ? "once" : `${count} times`;

function showSummary() {
  const { residual_error: error, agreement, verdicts, changes, seconds } = state.summary;
  $("finished-title").textContent = `All ${state.total} answered`;
  $("residual").textContent = error.estimate === null ? "unknown" : percent(error.estimate);
  $("residual-text").textContent = `of the ${error.population.toLocaleString("en")} images that would be accepted unseen have a label error`
    + ` (${percent(error.confidence)} interval: ${percent(error.low)} to ${percent(error.high)}).`
    + ` ${error.errors} of ${error.n} drawn images were wrong` + (error.undecided ? `, ${error.undecided} skipped.` : ".");
  $("agreement").textContent = agreement.pairs ? `${agreement.agreed} of ${agreement.pairs}` : "not measured";
  $("agreement-text").textContent = agreement.pairs
    ? `items that were shown twice were answered alike (95 % interval: ${percent(agreement.low)} to ${percent(agreement.high)}). `
      + (agreement.kappa === null ? "Cohen's kappa is undefined: all answers are the same." : `Cohen's kappa is ${agreement.kappa.toFixed(2)}.`)
    : "No item was shown twice.";
  const rows = [
    ["labels accepted", verdicts["accept-label"]], ["suggestions accepted", verdicts["accept-suggestion"]],
    ["redrawn", verdicts.redraw], ["skipped", verdicts.skip],
    ["boxes removed", changes.removed], ["boxes added", changes.added], ["boxes moved", changes.moved],
    ["median seconds an answer", seconds],
  ];
  $("answers").replaceChildren(...rows.map(cells => {
    const row = document.createElement("tr");
    row.append(...cells.map(cell => Object.assign(document.createElement("td"), { textContent: cell })));
    return row;
  }));
  $("undo-last").disabled = !state.last;
  $("status").textContent = `All ${state.total} answered`;
  $("finished-title").focus();
}

function problem(message) {
  $("problem").textContent = message;
  $("problem").hidden = !message;
}

function modes() {
  const item = state.item, drawing = edits !== null;
  $("ask").hidden = drawing;
  $("draw").hidden = !drawing;
  $("drawing").hidden = !drawing;
  $("picture").classList.toggle("drawing", drawing);
  $("accept-label").disabled = $("redraw").disabled = !picture;
  $("accept-suggestion").disabled = !picture || !item.suggestion.length;
  $("undo").disabled = !state.last;
  if (!drawing) return;
  const count = edits.length;
  $("drawing").textContent = item.whole ? "Drag to add a box, click on a box to choose it" : "Drag a box closely around the person";
  $("confirm").disabled = !count;
  $("confirm-means").textContent = count ? `${count} ${count === 1 ? "change" : "changes"}` : "nothing changed yet";
  $("remove").disabled = typeof chosen !== "string" && !edits.includes(chosen);
  $("take").disabled = !offered();
  $("choose").hidden = $("take").hidden = !item.whole;
}

function fit(canvas) {
  const ratio = devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio)), height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  return ratio;
}

function home() {
  const item = state.item, all = { x: 0, y: 0, w: item.width, h: item.height };
  const boxes = [item.label, ...item.suggestion.flatMap(change => [change.old, change.new])].filter(Boolean);
  if (full || item.whole || !boxes.length) return all;
  const x1 = Math.min(...boxes.map(box => box[0])), y1 = Math.min(...boxes.map(box => box[1]));
  const x2 = Math.max(...boxes.map(box => box[2])), y2 = Math.max(...boxes.map(box => box[3]));
  const margin = 0.75 * Math.max(x2 - x1, y2 - y1, 16);
  return clamp({ x: x1 - margin, y: y1 - margin, w: x2 - x1 + 2 * margin, h: y2 - y1 + 2 * margin });
}

// Widen a region to the shape of the canvas, for more context, and keep it in the image.
function clamp(wanted) {
  const item = state.item, canvas = $("picture"), shape = canvas.clientWidth / Math.max(1, canvas.clientHeight);
  const w = Math.min(item.width, Math.max(wanted.w, wanted.h * shape)), h = Math.min(item.height, Math.max(wanted.h, wanted.w / shape));
  const x = wanted.x + (wanted.w - w) / 2, y = wanted.y + (wanted.h - h) / 2;
  return { x: Math.min(Math.max(0, x), item.width - w), y: Math.min(Math.max(0, y), item.height - h), w, h };
}

function view(canvas, part) {
  const scale = Math.min(canvas.width / part.w, canvas.height / part.h);
  return { scale, left: (canvas.width - part.w * scale) / 2 - part.x * scale, top: (canvas.height - part.h * scale) / 2 - part.y * scale };
}

function pixel(event) {
  const canvas = $("picture"), bounds = canvas.getBoundingClientRect(), { scale, left, top } = view(canvas, region);
  const ratio = canvas.width / bounds.width;
  const x = ((event.clientX - bounds.left) * ratio - left) / scale, y = ((event.clientY - bounds.top) * ratio - top) / scale;
  return [Math.min(Math.max(x, 0), state.item.width), Math.min(Math.max(y, 0), state.item.height)];
}

function zoom(factor, [x, y] = [region.x + region.w / 2, region.y + region.h / 2]) {
  const w = Math.max(region.w / factor, state.item.width / MOST_ZOOM), real = region.w / w;
  region = clamp({ x: x - (x - region.x) / real, y: y - (y - region.y) / real, w, h: region.h / real });
  draw();
}

function pan(dx, dy) {
  region = clamp({ ...region, x: region.x + dx * region.w / 8, y: region.y + dy * region.h / 8 });
  draw();
}

function draw() {
  for (const [canvas, part, small] of [[$("picture"), region, false], [$("frame"), null, true]]) {
    const item = state.item;
    if (small) canvas.style.aspectRatio = `${item.width} / ${item.height}`;
    const ratio = fit(canvas), pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (!picture) continue;
    const seen = part || { x: 0, y: 0, w: item.width, h: item.height }, where = view(canvas, seen);
    pen.imageSmoothingQuality = "high";
    // The picture may be smaller than the image it shows.
    pen.drawImage(picture, where.left, where.top, item.width * where.scale, item.height * where.scale);
    if (!bare) overlay(pen, where, ratio, small);
    for (const tag of tags.splice(0)) label(pen, ...tag);
    if (small && region.w < item.width) rectangle(pen, where, corners(region), { colour: "#c9ced6", width: ratio, halo: true });
  }
  $("place").textContent = region && region.w < state.item.width ? "Whole image; the large picture shows the part in the grey frame" : "Whole image";
}

const corners = part => [part.x, part.y, part.x + part.w, part.y + part.h];

function overlay(pen, where, ratio, small) {
  const item = state.item, line = (small ? 1 : 2) * ratio;
  const changed = new Map((edits || []).filter(edit => edit.box_id).map(edit => [edit.box_id, edit.new]));
  for (const box of item.ignored) rectangle(pen, where, box, { colour: "#c0c0c0", width: line * 0.6, dash: [2 * ratio, 3 * ratio], halo: true });
  for (const { box_id, box } of item.labels) {
    const focus = item.whole || box_id === item.box_id;
    rectangle(pen, where, box, {
      colour: COLOUR.label, width: focus ? line * 1.25 : line * 0.6, halo: focus, faint: changed.has(box_id),
      tag: !small && box_id === item.box_id ? "label" : "",
    });
    if (edits && !small && chosen === box_id && !changed.has(box_id)) handles(pen, where, box, ratio, COLOUR.label);
  }
  for (const change of item.suggestion) {
    if (!changed.has(change.box_id) && !taken?.has(change)) suggestion(pen, where, change, ratio, line, small);
  }
  for (const edit of edits || []) mine(pen, where, edit, ratio, line, small);
  if (drag && drag.moved && !small) rectangle(pen, where, dragged(), { colour: COLOUR.drawn, width: line * 1.5, halo: true });
}

function suggestion(pen, where, change, ratio, line, small) {
  const verb = change.new === null ? "remove" : change.old === null ? "add" : "move here";
  const style = { colour: COLOUR.prediction, width: line * 1.25, dash: [6 * ratio, 4 * ratio], halo: true };
  // Around the label that is to be removed, so that both are seen.
  const apart = change.new === null ? 3 * line / where.scale : 0;
  const [x1, y1, x2, y2] = change.new || change.old;
  const faint = edits && !state.item.whole;
  rectangle(pen, where, [x1 - apart, y1 - apart, x2 + apart, y2 + apart], { ...style, faint, tag: small || faint ? "" : verb, below: true });
  if (edits && chosen === change && !small) handles(pen, where, change.new, ratio, COLOUR.prediction);
}

function mine(pen, where, edit, ratio, line, small) {
  const box = edit.new || state.item.labels.find(label => label.box_id === edit.box_id).box;
  rectangle(pen, where, box, { colour: COLOUR.drawn, width: line * 1.5, halo: true, tag: small ? "" : edit.new ? "yours" : "removed", below: true });
  if (edit.new === null) cross(pen, where, box, COLOUR.drawn, line);
  if (!small && (chosen === edit || chosen === edit.box_id)) handles(pen, where, box, ratio, COLOUR.drawn);
}

function rectangle(pen, { scale, left, top }, [x1, y1, x2, y2], { colour, width, dash = [], halo = false, faint = false, tag = "", below = false }) {
  const x = left + x1 * scale, y = top + y1 * scale, w = (x2 - x1) * scale, h = (y2 - y1) * scale;
  pen.save();
  pen.globalAlpha = faint ? 0.35 : 1;
  if (halo) {
    Object.assign(pen, { strokeStyle: "#000b", lineWidth: width + 2 });
    pen.strokeRect(x, y, w, h);
  }
  pen.setLineDash(dash);
  Object.assign(pen, { strokeStyle: colour, lineWidth: width });
  pen.strokeRect(x, y, w, h);
  pen.restore();
  if (tag) tags.push([tag, colour, x - width / 2, below ? y + h + width / 2 : y - width / 2, below]);
}

function label(pen, words, colour, x, y, below) {
  const ratio = devicePixelRatio || 1, height = 18 * ratio;
  pen.font = `600 ${12 * ratio}px system-ui, sans-serif`;
  const width = pen.measureText(words).width + 10 * ratio;
  x = Math.min(Math.max(0, x), pen.canvas.width - width);
  y = Math.min(Math.max(0, below ? y : y - height), pen.canvas.height - height);
  pen.fillStyle = colour;
  pen.fillRect(x, y, width, height);
  pen.fillStyle = "#000";
  pen.textBaseline = "middle";
  pen.fillText(words, x + 5 * ratio, y + height / 2);
}

function cross(pen, { scale, left, top }, [x1, y1, x2, y2], colour, width) {
  pen.save();
  Object.assign(pen, { strokeStyle: colour, lineWidth: width, globalAlpha: 0.8 });
  pen.beginPath();
  for (const [a, b] of [[x1, x2], [x2, x1]]) {
    pen.moveTo(left + a * scale, top + y1 * scale);
    pen.lineTo(left + b * scale, top + y2 * scale);
  }
  pen.stroke();
  pen.restore();
}

function handles(pen, { scale, left, top }, [x1, y1, x2, y2], ratio, colour) {
  const half = HANDLE * ratio;
  for (const x of [x1, x2]) for (const y of [y1, y2]) {
    pen.fillStyle = "#000";
    pen.fillRect(left + x * scale - half - ratio, top + y * scale - half - ratio, 2 * (half + ratio), 2 * (half + ratio));
    pen.fillStyle = colour;
    pen.fillRect(left + x * scale - half, top + y * scale - half, 2 * half, 2 * half);
  }
}

function startDrawing() {
  if (busy || !picture || edits) return;
  edits = [];
  taken = new Set();
  chosen = state.item.whole ? null : state.item.box_id || null;
  modes();
  draw();
  $("picture").focus();
}

function stopDrawing() {
  edits = chosen = taken = drag = null;
  modes();
  draw();
}

const round = box => box.map(corner => Math.round(corner * 100) / 100);
const dragged = () => {
  const [[x1, y1], [x2, y2]] = [drag.from, drag.to];
  return round([Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)]);
};
const entry = () => edits.find(edit => typeof chosen === "string" ? edit.box_id === chosen : edit === chosen);
const labelled = box_id => state.item.labels.find(label => label.box_id === box_id)?.box;

const isSuggested = thing => state.item.suggestion.includes(thing);
const offered = () => state.item.suggestion.find(change => typeof chosen === "string" ? change.box_id === chosen : change === chosen);

// The box that the next key or drag changes.
function current() {
  const edit = entry();
  if (edit) return edit.new || labelled(edit.box_id);
  return typeof chosen === "string" ? labelled(chosen) : state.item.whole ? null : state.item.prediction;
}

function placeBox(box) {
  if (isSuggested(chosen)) {
    taken.add(chosen);
    chosen = null;
  }
  let edit = entry() || (!state.item.whole && edits[0]);
  if (!edit) edits.push(edit = { box_id: typeof chosen === "string" ? chosen : "", new: null });
  if (!edit.box_id) chosen = edit;
  edit.new = box;
  modes();
  draw();
}

function take() {
  const change = offered();
  if (!change || !state.item.whole) return;
  if (change.new) {
    placeBox(change.new);
  } else if (!entry() || entry().new) {
    edits = edits.filter(edit => edit.box_id !== chosen);
    removeChosen();
  }
}

function removeChosen() {
  if ($("remove").disabled) return;
  const edit = entry();
  if (edit && (edit.new === null || !edit.box_id)) {
    edits = edits.filter(other => other !== edit);
    if (!edit.box_id) chosen = null;
  } else if (edit) {
    edit.new = null;
  } else {
    edits.push({ box_id: chosen, new: null });
  }
  modes();
  draw();
}

function boxes() {
  const { labels, suggestion } = state.item;
  return [
    ...labels.map(({ box_id, box }) => ({ key: box_id, box: edits.find(edit => edit.box_id === box_id)?.new || box })),
    ...edits.filter(edit => !edit.box_id).map(edit => ({ key: edit, box: edit.new })),
    ...suggestion.filter(change => !change.old && !taken.has(change)).map(change => ({ key: change, box: change.new })),
  ];
}

function chooseAt([x, y]) {
  const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
  const hit = boxes().filter(({ box }) => x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3]);
  chosen = hit.sort((a, b) => area(a.box) - area(b.box))[0]?.key ?? null;
  modes();
  draw();
}

function chooseNext() {
  if (!state.item.whole) return;
  const all = boxes(), index = all.findIndex(({ key }) => key === chosen);
  chosen = all.length ? all[(index + 1) % all.length].key : null;
  modes();
  draw();
  if (chosen !== null) $("status").textContent = `Chosen: box ${place(all[(index + 1) % all.length].box)}`;
}

function nudge(dx, dy, resize) {
  const box = isSuggested(chosen) ? chosen.new : current();
  if (!box) return;
  const [x1, y1, x2, y2] = box, { width, height } = state.item;
  if (!resize) {
    const x = Math.min(Math.max(dx, -x1), width - x2), y = Math.min(Math.max(dy, -y1), height - y2);
    placeBox(round([x1 + x, y1 + y, x2 + x, y2 + y]));
  } else if (x2 + dx - x1 >= 2 && y2 + dy - y1 >= 2) {
    placeBox(round([x1, y1, Math.min(x2 + dx, width), Math.min(y2 + dy, height)]));
  }
}

function confirm() {
  if (!edits.length) return;
  const drawn = edits.filter(edit => String(edit.new) !== String(labelled(edit.box_id))).map(edit => ({ box_id: edit.box_id, new: edit.new }));
  if (drawn.length) answer("redraw", drawn);
  else stopDrawing();
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const ASKING = {
  a: () => answer("accept-label"), s: () => answer("accept-suggestion"), k: () => answer("skip"), r: startDrawing, u: undo,
};
const DRAWING = { Enter: confirm, Escape: stopDrawing, Delete: removeChosen, Backspace: removeChosen, n: chooseNext, s: take };
const ALWAYS = {
  "?": () => $("help").showModal(),
  "+": () => zoom(STEP), "=": () => zoom(STEP), "-": () => zoom(1 / STEP), "−": () => zoom(1 / STEP),
  z: () => { full = region.w < state.item.width ? true : !full; region = home(); draw(); },
  h: () => { bare = true; draw(); },
};

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open || !state || !$("ended").hidden) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const onButton = document.activeElement instanceof HTMLButtonElement && (key === "Enter" || key === " ");
  let action;
  if (key === "?") action = ALWAYS[key];
  else if (!state.item) action = { u: undo, Enter: finish }[key];
  else if (busy || !region) return;
  else if (ARROWS[key]) action = () => edits ? nudge(...ARROWS[key], event.shiftKey) : pan(...ARROWS[key]);
  else action = (edits ? DRAWING : ASKING)[key] || ALWAYS[key];
  if (!action || onButton || (event.repeat && !ARROWS[key] && !"+-=".includes(key))) return;
  event.preventDefault();
  action();
}

document.addEventListener("keydown", pressed);
document.addEventListener("keyup", event => {
  if (event.key.toLowerCase() !== "h" || !bare) return;
  bare = false;
  if (state.item) draw();
});

$("picture").addEventListener("pointerdown", event => {
  if (!edits || event.button !== 0 || busy) return;
  event.preventDefault();
  $("picture").setPointerCapture(event.pointerId);
  drag = { from: pixel(event), to: pixel(event), x: event.clientX, y: event.clientY, moved: false };
});
$("picture").addEventListener("pointermove", event => {
  if (!drag) return;
  drag.to = pixel(event);
  drag.moved ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) >= CLICK;
  draw();
});
$("picture").addEventListener("pointerup", () => {
  if (!drag) return;
  const box = dragged(), { moved, to } = drag;
  drag = null;
  if (moved && box[2] - box[0] >= 2 && box[3] - box[1] >= 2) placeBox(box);
  else if (state.item.whole) chooseAt(to);
  draw();
});
$("picture").addEventListener("pointercancel", () => { drag = null; draw(); });
$("picture").addEventListener("wheel", event => {
  event.preventDefault();
  if (picture && region) zoom(event.deltaY < 0 ? STEP : 1 / STEP, pixel(event));
}, { passive: false });

for (const verdict of ["accept-label", "accept-suggestion", "skip"]) $(verdict).addEventListener("click", () => answer(verdict));
for (const [id, action] of Object.entries({
  redraw: startDrawing, undo, "undo-last": undo, confirm, take, remove: removeChosen, choose: chooseNext, cancel: stopDrawing, finish,
  "help-open": ALWAYS["?"],
})) $(id).addEventListener("click", action);
addEventListener("resize", () => {
  if (!state?.item || !region) return;
  region = clamp(region);
  draw();
});
addEventListener("blur", () => { if (bare) { bare = false; draw(); } });

send("state").then(first => show(first, "")).catch(error => { $("status").classList.remove("hidden"); $("status").textContent = error.message; }).finally(() => { busy = false; });
