// The Energy Lab, live: inference in the reader's browser, without a kernel.

// ---- Arrays -------------------------------------------------------------------------------

/** The arrays of an .npz file: {name: {shape, data}}. `name` as int8 comes with `name_scale`. */
export function readNpz(buffer) {
  const view = new DataView(buffer), arrays = {}, ascii = new TextDecoder("latin1");
  const types = { "|i1": Int8Array, "|u1": Uint8Array, "<f4": Float32Array };
  for (let at = 0; view.getUint32(at, true) === 0x04034b50; ) { // one file of the archive each
    const name = ascii.decode(new Uint8Array(buffer, at + 30, view.getUint16(at + 26, true)));
    const array = at + 30 + name.length + view.getUint16(at + 28, true);
    const start = array + 10 + view.getUint16(array + 8, true);
    const header = ascii.decode(new Uint8Array(buffer, array + 10, start - array - 10));
    const shape = header.match(/'shape': \(([^)]*)\)/)[1].split(",").filter((n) => n.trim()).map(Number);
    const type = types[header.match(/'descr': '([^']*)'/)[1]];
    const end = start + shape.reduce((a, b) => a * b, 1) * type.BYTES_PER_ELEMENT;
    arrays[name.replace(".npy", "")] = { shape, data: new type(buffer.slice(start, end)) };
    at = end;
  }
  for (const [name, scale] of Object.entries(arrays).filter(([name]) => name.endsWith("_scale"))) {
    const weights = arrays[name.replace("_scale", "")], columns = weights.shape[1];
    weights.data = Float32Array.from(weights.data, (w, i) => w * scale.data[Math.floor(i / columns)]);
  }
  return arrays;
}

/**
 * A matrix W (rows × columns), a bias or none, applied to the whole input or to each of many
 * windows of it: `index` says which input each entry of each window is, −1 is beyond the border.
 */
class Layer {
  constructor({ shape: [rows, columns], data }, bias = null, index = null, inputs = columns) {
    Object.assign(this, { rows, columns, W: data, bias: bias && bias.data, index, inputs });
    this.windows = index ? index.length / columns : 1;
  }

  /** W·input + bias, for every window. */
  forward(input) {
    const { rows, columns, W, bias, index } = this, output = new Float64Array(this.windows * rows);
    let patch = input;
    if (index) patch = new Float64Array(columns);
    for (let w = 0; w < this.windows; w++) {
      if (index) for (let c = 0; c < columns; c++) patch[c] = input[index[w * columns + c]] ?? 0;
      for (let r = 0, k = 0; r < rows; r++) {
        let sum = bias ? bias[r] : 0;
        for (let c = 0; c < columns; c++) sum += W[k++] * patch[c];
        output[w * rows + r] = sum;
      }
    }
    return output;
  }

  /** Wᵀ·error: what each input gets back from all rows and windows. */
  backward(error) {
    const { rows, columns, W, index } = this, input = new Float64Array(this.inputs);
    for (let w = 0; w < this.windows; w++) {
      const patch = index ? new Float64Array(columns) : input;
      for (let r = 0; r < rows; r++) {
        const e = error[w * rows + r];
        if (e !== 0) for (let c = 0, k = r * columns; c < columns; c++) patch[c] += W[k++] * e;
      }
      if (index) for (let c = 0; c < columns; c++) {
        const i = index[w * columns + c];
        if (i >= 0) input[i] += patch[c];
      }
    }
    return input;
  }
}

/** Notebook 05's `windows`: 4 × 4 pixels, stride 2, one row of zeros around the image. */
function windows(side, channels) {
  const across = Math.floor(side / 2), index = [], two = [0, 1];
  for (let i = 0; i < across; i++) for (let j = 0; j < across; j++)
    for (const blockRow of two) for (const blockColumn of two) for (const y of two) for (const x of two)
      for (let c = 0; c < channels; c++) {
        const row = 2 * (i + blockRow) + y - 1, column = 2 * (j + blockColumn) + x - 1;
        const inside = row >= 0 && column >= 0 && row < side && column < side;
        index.push(inside ? (row * side + column) * channels + c : -1);
      }
  return Int32Array.from(index);
}

function map(array, f) {
  const result = new Float64Array(array.length);
  for (let i = 0; i < result.length; i++) result[i] = f(array[i], i);
  return result;
}
const sigmoid = (a) => 1 / (1 + Math.exp(-a));
const softplus = (a) => Math.max(a, 0) + Math.log1p(Math.exp(-Math.abs(a)));
const half = (e) => 0.5 * e.reduce((sum, x) => sum + x * x, 0);

/** A standard normal number, by Box and Muller. */
export const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

// ---- Three energies -----------------------------------------------------------------------
// Each is a function of its free variables u, given a question {pixels, seen, label}: `pixels` in
// [0, 1], `seen` 1 where a pixel is clamped and 0 where it is hidden, `label` 0 to 9 or null.
// `slope` returns the energy, its gradient, the picture, what to show, and what it reads.

const relu = (z) => map(z, (a) => Math.max(a, 0));
const softmax = (a) => {
  const e = map(a, (x) => Math.exp(x - Math.max(...a)));
  return map(e, (x) => x / e.reduce((sum, y) => sum + y));
};

/** Notebook 02: u = [x, z1, z2, …] and F = ½ Σ‖ε‖², of any depth. */
export class Chain {
  constructor(arrays) {
    const names = Object.keys(arrays).filter((name) => /^W\d+$/.test(name));
    this.layers = names.map((name) => new Layer(arrays[name]));
    this.size = this.layers.reduce((sum, layer) => sum + layer.columns, 0);
  }

  split(u) {
    let at = 0;
    return this.layers.map(({ columns }) => u.subarray(at, (at += columns)));
  }

  /** A label, or 0.1 in every class; the rest as it predicts, or silent if all that would be done. */
  start({ seen, label, temperature }) {
    const u = new Float64Array(this.size), z = this.split(u);
    z[0].forEach((_, c) => (z[0][c] = label === null ? 0.1 : +(c === label)));
    if (seen.includes(1) || temperature) {
      for (let l = 1; l < z.length; l++) z[l].set(this.layers[l - 1].forward(relu(z[l - 1])));
    }
    return u;
  }

  free({ label }) {
    return new Uint8Array(this.size).fill(1).fill(label === null ? 1 : 0, 0, this.layers[0].columns);
  }

  slope(u, { pixels, seen }) {
    const z = this.split(u), gradient = new Float64Array(this.size), g = this.split(gradient);
    const predicted = this.layers.map((layer, l) => layer.forward(relu(z[l])));
    const errors = predicted.map((p, l) =>
      l + 1 < z.length ? map(p, (p, i) => z[l + 1][i] - p) : map(p, (p, i) => seen[i] * (pixels[i] - p)));
    this.layers.forEach((layer, l) => {
      const returned = layer.backward(errors[l]);
      g[l].forEach((_, i) => (g[l][i] = (l ? errors[l - 1][i] : 0) - (z[l][i] > 0 ? returned[i] : 0)));
    });
    const image = map(predicted.at(-1), (p, i) => (seen[i] ? pixels[i] : p));
    const cells = () => [...z.slice(1), image].map((values, l) => {
      const top = l === z.length - 1, index = `<sub>${l + 1}</sub>`;
      return { name: top ? "y</i>, the image<i>" : `z${index}`, values, error: errors[l], errorName: `ε${index}`, picture: top };
    });
    const energy = errors.reduce((sum, e) => sum + half(e), 0);
    return { energy, gradient, image, cells, reads: z[0], hidden: u.subarray(z[0].length) };
  }
}

/** Notebook 04: u = z, the decoder's code, and E = ½‖z‖² − log p(x | z). */
export class Code {
  constructor(arrays) {
    this.layers = [0, 1, 2].map((l) => new Layer(arrays[`W${l}`], arrays[`b${l}`]));
    this.readout = new Layer(arrays.readout, arrays.readout_bias);
    this.size = this.layers[0].columns;
  }

  start({ seen }) {
    return map({ length: this.size }, seen.includes(1) ? () => 0 : normal);
  }

  free() {
    return new Uint8Array(this.size).fill(1);
  }

  slope(u, { pixels, seen }) {
    const before = [u];
    this.layers.forEach((layer, l) => before.push(layer.forward(l ? relu(before[l]) : u)));
    const logits = before[3], p = map(logits, sigmoid), error = map(p, (p, i) => seen[i] * (pixels[i] - p));
    let back = map(error, (e) => -e);
    for (let l = 2; l >= 0; l--) {
      back = this.layers[l].backward(back);
      if (l) back = map(back, (b, i) => (before[l][i] > 0 ? b : 0));
    }
    const surprise = logits.reduce((sum, a, i) => sum + seen[i] * (softplus(a) - pixels[i] * a), 0);
    const image = map(p, (p, i) => (seen[i] ? pixels[i] : p));
    const cells = () => [{ name: "z", values: u }, { name: "h<sub>2</sub>", values: relu(before[2]) },
      { name: "x</i>, the image<i>", values: image, error, errorName: "x − p", picture: true }];
    return { energy: half(u) + surprise, gradient: map(back, (b, i) => b + u[i]), image, cells,
      reads: softmax(this.readout.forward(u)) };
  }
}

/** Notebook 05: u = x, the pixels themselves from −1 to 1, and E(x, y), an output for each label y;
 * without a label E(x) = −log Σ exp(−E(x, y)). The label is read at the temperature of section 10. */
export class Energy {
  constructor(arrays) {
    const channels = [1, arrays.W0.shape[0], arrays.W1.shape[0]];
    this.layers = [28, 14, 7].map((side, l) => new Layer(arrays[`W${l}`], arrays[`b${l}`],
      windows(side, channels[l]), side * side * channels[l]));
    this.layers.push(new Layer(arrays.W3, arrays.b3), new Layer(arrays.W4, arrays.b4));
    Object.assign(this, { temperature: arrays.temperature.data[0], size: 784, clip: 0.03, limit: 1 }); // notebook 05's chain
  }

  start({ pixels, seen }) {
    return map(pixels, (x, i) => (seen[i] ? 2 * x - 1 : 2 * Math.random() - 1));
  }

  free({ seen }) {
    return seen.map((s) => 1 - s);
  }

  slope(u, { label }) {
    const before = [];
    let after = u;
    for (const layer of this.layers) {
      if (before.length) after = map(before.at(-1), (b) => b * sigmoid(b));
      before.push(layer.forward(after));
    }
    const energies = before.pop(), asked = Number.isInteger(label);
    const lowest = Math.min(...energies), weights = map(energies, (e) => Math.exp(lowest - e));
    const sum = weights.reduce((a, b) => a + b), energy = asked ? energies[label] : lowest - Math.log(sum);
    let gradient = this.layers[4].backward(map(weights, (w, y) => (asked ? +(y === label) : w / sum)));
    for (let l = 3; l >= 0; l--) {
      const slope = (b, s) => s + b * s * (1 - s); // of swish
      gradient = this.layers[l].backward(map(gradient, (e, i) => e * slope(before[l][i], sigmoid(before[l][i]))));
    }
    const image = map(u, (x) => (x + 1) / 2);
    const cells = () => [{ name: "features", values: after },
      { name: "x</i>, the image<i>", values: image, error: map(gradient, (g) => -g), errorName: "−∇E(x)", picture: true }];
    return { energy, gradient, image, cells, reads: softmax(map(energies, (e) => -e / this.temperature)) };
  }
}

// ---- One way to infer ---------------------------------------------------------------------

/** u ← u − η ∇E(u) + √(2ηT) ξ, for what is free. Returns `slope` as it was before the step. */
export function step(model, u, question, rate, temperature = 0) {
  const now = model.slope(u, question), free = model.free(question);
  const { clip = Infinity, limit = Infinity } = model, noise = Math.sqrt(2 * rate * temperature);
  for (let i = 0; i < u.length; i++) {
    if (!free[i]) continue;
    u[i] -= rate * Math.min(Math.max(now.gradient[i], -clip), clip);
    if (noise) u[i] += noise * normal();
    u[i] = Math.min(Math.max(u[i], -limit), limit);
  }
  return now;
}

/**
 * λ by one power iteration on the Hessian at u, by central differences; `v` turns to its vector.
 * If the energy curves down most, the shift by that much brings the upward curvature to the front.
 */
export function curvature(model, u, question, v) {
  const free = model.free(question), h = 1e-7;
  const length = Math.sqrt(2 * half(map(v, (x, i) => x * free[i]))) || 1;
  const direction = map(v, (x, i) => (x * free[i]) / length);
  const slopeAt = (h) => model.slope(map(u, (a, i) => a + h * direction[i]), question).gradient;
  const up = slopeAt(h), down = slopeAt(-h);
  const change = map(up, (g, i) => (free[i] * (g - down[i])) / (2 * h));
  const lambda = change.reduce((sum, x, i) => sum + x * direction[i], 0);
  v.forEach((_, i) => (v[i] = change[i] + Math.max(-lambda, 0) * direction[i]));
  return lambda;
}

// ---- What the page says about each --------------------------------------------------------

const QUESTIONS = {
  generate: { name: "Generate", seen: () => 0, told: true },
  read: { name: "Read", seen: () => 1 },
  complete: { name: "Complete", seen: (i) => +(i < 392) },
  sample: { name: "Sample", seen: () => 0, told: true, noisy: true },
};

const noise = (T) => `√<span class="el-root">2${T}</span> <i>ξ</i>`;

// `rates` and `temperatures` are the ends of the sliders.
const MODELS = {
  pc: {
    name: "PC chain", Model: Chain, F: "F", labelled: true, rate: 0.05, rates: [0.005, 3], temperature: 0.006, temperatures: [1e-4, 1],
    typical: "0.006, see 02, section 8",
    formulas: [
      "<i>F</i> = ½ Σ<sub><i>ℓ</i></sub> ‖<i>ε<sub>ℓ</sub></i>‖² with <i>ε<sub>ℓ</sub></i> = <i>z<sub>ℓ</sub></i> − <i>W<sub>ℓ</sub> φ</i>(<i>z</i><sub><i>ℓ</i>−1</sub>)",
      `<i>z<sub>ℓ</sub></i> ← <i>z<sub>ℓ</sub></i> + <i>η</i> (−<i>ε<sub>ℓ</sub></i> + <i>φ</i>′(<i>z<sub>ℓ</sub></i>) ⊙ <i>W</i><sup>⊤</sup><sub><i>ℓ</i>+1</sub> <i>ε</i><sub><i>ℓ</i>+1</sub>) + ${noise("<i>ηT</i>")}`,
    ],
    links: {
      "derived in 02, section 2": "02_generative_pc.html#on-paper",
      "the limit 2/λ, section 5": "02_generative_pc.html#what-is-to-blame",
      "these questions, section 8": "02_generative_pc.html#inference-at-work",
    },
    notes: {
      generate: "A label is clamped and no pixel is seen. The hidden layers begin silent and rise to what the label predicts.",
      read: "Every pixel is seen and the label is free, 0.1 in each class. Nothing in F says that a label is one class, so it may mix several.",
      complete: "The upper half is seen and the label is free. A hidden pixel has no error and follows its prediction.",
      sample: "Generate, with noise as large as the hidden errors of real images. It is white, so it makes blotches more than handwriting.",
    },
  },
  vae: {
    name: "VAE code", Model: Code, F: "E", rate: 0.005, rateUnseen: 0.05, rates: [0.0005, 5], temperature: 1, temperatures: [0.01, 100],
    typical: "1, the posterior of z",
    formulas: [
      "<i>E</i>(<i>z</i>) = ½ ‖<i>z</i>‖² − log <i>p</i>(<i>x</i><sub>seen</sub> | <i>z</i>)",
      `<i>z</i> ← <i>z</i> − <i>η</i> ∇<i>E</i>(<i>z</i>) + ${noise("<i>ηT</i>")}`,
    ],
    links: {
      "this energy in 04, section 9": "04_variational_autoencoder.html#the-same-questions-for-every-model",
      "the decoder, section 2": "04_variational_autoencoder.html#the-model-part-by-part",
    },
    notes: {
      generate: "No pixel is seen, only the prior is left. Without noise the code falls to 0: the likeliest code, and no typical one.",
      read: "Every pixel is seen. Descent looks for the code that the encoder names in one pass; a linear readout turns it into a label.",
      complete: "The upper half is seen, and the code that explains it draws the rest.",
      sample: "No pixel is seen. At T = 1 the noise draws codes from the prior, and each is a digit that nobody wrote.",
    },
  },
  ebm: {
    name: "Energy of the image", Model: Energy, F: "E", labelled: true, rate: 10, rates: [0.5, 500], temperature: 1.25e-6, temperatures: [1e-7, 0.01],
    typical: "1.25e−6, as in training",
    formulas: [
      "<i>E</i>(<i>x</i>, <i>y</i>) for a label <i>y</i>, else <i>E</i>(<i>x</i>) = −log Σ<sub><i>y</i></sub> <i>e</i><sup> −<i>E</i>(<i>x</i>, <i>y</i>)</sup>",
      `<i>x</i> ← <i>x</i> − <i>η</i> ∇<i>E</i>(<i>x</i>) + ${noise("<i>ηT</i>")}`,
    ],
    links: {
      "derived in 05, section 2": "05_energy_based_model.html#samples-by-langevin-dynamics",
      "its chains, section 4": "05_energy_based_model.html#where-do-the-negative-samples-come-from",
    },
    notes: {
      generate: "A label is clamped and no pixel is seen. All pixels begin as noise, and descent finds such a digit. Start again for another.",
      read: "Every pixel is seen, so nothing is free: the energy is one number. The lowest of the ten energies names the digit.",
      complete: "The upper half is clamped; the lower half begins as noise and descends.",
      sample: "Generate, with the little noise of notebook 05. A chain keeps to the digit that it has found: start again for another.",
    },
  },
};

const choices = (name, values, legend) => `<fieldset class="el-${name}"><legend>${legend}</legend>${values.map(
  ([value, text]) => `<label><input type="radio" name="${name}" value="${value}"><span>${text}</span></label>`).join("")}</fieldset>`;
const digits = [..."0123456789"].map((d) => [d, d]);
const slider = (name, text) => `<div class="el-slider"><label>${text} <output class="el-${name}-value"></output>
  <input type="range" class="el-${name}" min="0" max="1" step="0.005"></label><span class="el-mark"></span></div>`;

const PAGE = `
${choices("model", Object.entries(MODELS).map(([key, { name }]) => [key, name]), "Model")}
<div class="el-row">${Object.entries(QUESTIONS).map(([key, { name }]) => `<button type="button" data-ask="${key}">${name}</button>`).join("")}</div>
<p class="el-note"></p>
<div class="el-bench">
  <div class="el-controls">
    ${slider("rate", "Rate <i>η</i> =")}${slider("temperature", "Temperature <i>T</i> =")}
    <div class="el-row"><button type="button" data-do="run"></button><button type="button" data-do="step">Step</button><button type="button" data-do="again">Start again</button><button type="button" data-do="recover" hidden>Take half the limit and start again</button>
      <label>Speed <select class="el-speed"><option value="10">10 steps a second</option><option value="120" selected>120 steps a second</option><option value="1e6">as fast as it can</option></select></label></div>
  </div>
  <div class="el-question">
    <div class="el-title">The question: what is clamped</div>
    <canvas class="el-seen" width="280" height="280" tabindex="0" role="application" aria-roledescription="drawing"
      aria-label="Picture of 28 by 28 pixels. Arrow keys move a cursor, space paints, shift and arrow paints on the way."></canvas>
    <output class="el-cursor el-unseen" aria-live="polite"></output>
    ${choices("brush", [["ink", "draw"], ["erase", "erase"], ["hide", "hide"]], "Brush")}
  </div>
  <div class="el-answer">
    <div class="el-title">The answer: what is inferred</div>
    <div class="el-cells"></div>
    <p class="el-key"><span>■</span> above zero <span>■</span> below zero<span class="el-parts">; beside each <i>ε</i> its part of <i>F</i>, ½‖<i>ε</i>‖²</span></p>
    <p class="el-words"></p><p class="el-live el-unseen" role="status"></p>
    <div class="el-trace"><div></div><canvas role="img"></canvas></div>
    <div class="el-strip"><canvas width="289" height="28" role="img" aria-label="Pictures on the way"></canvas>every 40 steps, the newest on the right</div>
  </div>
  <div class="el-tools">
    <fieldset class="el-digits"><legend class="el-what"></legend>${digits.map(([d]) => `<button type="button" data-digit="${d}">${d}</button>`).join("")}</fieldset>
    <div class="el-row"><button type="button" data-do="clear">Clear</button><button type="button" data-do="half">Hide half</button><button type="button" data-do="show">Show all</button></div>
    ${choices("label", [["", "free"], ...digits], "Label")}
  </div>
</div>
<div class="el-maths"><p></p><p></p><p class="el-links"></p></div>`;

// ---- The page -----------------------------------------------------------------------------

const power = ([low, high], t) => low * (high / low) ** t;
const place = ([low, high], x) => Math.min(Math.max(Math.log(x / low) / Math.log(high / low), 0), 1);
const short = (x) => (Math.abs(x) >= 1e4 || (x && Math.abs(x) < 1e-3) ? x.toExponential(1) : String(+x.toPrecision(3))).replace("-", "−");

export class Lab {
  /** Build the page in `root`; `load` takes a name, "pc", "vae", "ebm" or "digits", to its arrays. */
  constructor(root, load, { small = false, only = null } = {}) {
    root.classList.add("energy-lab");
    root.dataset.lmSuppressShortcuts = "true"; // JupyterLab leaves the keys to it
    root.classList.toggle("el-small", small);
    root.innerHTML = PAGE;
    Object.assign(this, { root, load, loaded: {}, pixels: new Float64Array(784), seen: new Uint8Array(784) });
    Object.assign(this, { label: null, rate: 0, temperature: 0, cursor: [14, 14], visible: true });
    this.$ = (css) => root.querySelector(css);
    const id = `el-${Math.random().toString(36).slice(2)}`; // two labs on one page do not share radio buttons
    root.querySelectorAll("[type=radio]").forEach((radio) => (radio.name = id + radio.name));
    if (only) this.$(".el-model").hidden = this.$(".el-links").hidden = true; // in a notebook
    this.$(".el-brush input").checked = true;
    this.listen();
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    new IntersectionObserver(([entry]) => { this.visible = entry.isIntersecting; this.schedule(); }).observe(root);
    new MutationObserver(() => this.draw()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    this.ready = this.open(only ?? "pc");
  }

  async open(key) {
    this.$(`.el-model [value=${key}]`).checked = true;
    this.images ??= await this.load("digits");
    this.loaded[key] ??= new MODELS[key].Model(await this.load(key));
    Object.assign(this, { key, about: MODELS[key], model: this.loaded[key] });
    const [first, second, links] = this.root.querySelectorAll(".el-maths p");
    [first.innerHTML, second.innerHTML] = this.about.formulas;
    const link = ([text, to]) => `<a href="../notebooks/${to}">${text}</a>`;
    links.innerHTML = Object.entries(this.about.links).map(link).join(" · ");
    this.$(".el-label").disabled = !this.about.labelled;
    this.question ??= "complete";
    const known = this.images.labels.data;
    if (!this.pixels.some(Boolean)) this.loadDigit(known.includes(2) ? 2 : known[0]);
    this.ask(this.question);
  }

  // What is asked.

  ask(question) {
    const { seen, told, noisy } = QUESTIONS[question];
    this.question = question;
    this.seen.forEach((_, i) => (this.seen[i] = seen(i)));
    this.label = told && this.about.labelled ? this.label ?? 3 : null;
    this.temperature = noisy ? this.about.temperature : 0;
    this.rate = this.seen.includes(1) ? this.about.rate : this.about.rateUnseen ?? this.about.rate;
    this.strip = [];
    this.restart();
  }

  loadDigit(digit) {
    const { images, labels } = this.images, all = [...labels.data.keys()].filter((i) => labels.data[i] === digit);
    if (!all.length) return;
    this.turn = (this.turn ?? -1) + 1;
    const at = 784 * all[this.turn % all.length];
    this.pixels.forEach((_, i) => (this.pixels[i] = images.data[at + i] / 255));
  }

  /** A digit's button: which label is told where no pixel is seen, else which test image is seen. */
  chooseDigit(digit) {
    if (!this.seen.includes(1) && this.about.labelled) this.label = digit;
    else this.loadDigit(digit);
    if (!this.seen.includes(1) && !this.about.labelled) this.ask("complete");
    this.restart();
  }

  /** Paint around (x, y), in pixels, with a soft pen; what is drawn or erased is seen. */
  paint(x, y) {
    const brush = this.$(".el-brush :checked").value, reach = brush === "ink" ? 1.5 : 2.2;
    for (let i = 0; i < 784; i++) {
      const near = Math.min(Math.max(reach - Math.hypot((i % 28) + 0.5 - x, Math.floor(i / 28) + 0.5 - y), 0), 1);
      if (!near) continue;
      if (brush === "ink") this.pixels[i] = Math.max(this.pixels[i], near);
      if (brush === "erase") this.pixels[i] *= 1 - near;
      this.seen[i] = brush === "hide" ? (near < 0.5 ? this.seen[i] : 0) : 1;
    }
    this.restart();
  }

  // Inference.

  restart() {
    this.u = this.model.start(this);
    Object.assign(this, { steps: 0, moved: 0, trace: [], phase: "", crossed: 0 });
    Object.assign(this, { direction: map(this.u, normal), limit: Infinity });
    for (let i = 0; i < 15; i++) this.findLimit();
    this.running = !this.still;
    this.draw();
    this.schedule();
  }

  findLimit() {
    const curved = curvature(this.model, this.u, this, this.direction);
    if (curved > 0) this.limit = 2 / curved;
    if (!Number.isFinite(curved)) this.direction = map(this.u, normal);
  }

  advance() {
    const { energy } = step(this.model, this.u, this, this.rate, this.temperature);
    this.trace.push(energy);
    this.steps += 1;
    if (this.rate > this.limit && !this.model.limit) this.crossed ||= this.limit; // the limit it was above
    if (this.steps % 10 === 0) this.findLimit();
    if (this.steps % 40 === 0) this.strip = [...this.strip.slice(-9), this.model.slope(this.u, this).image];
    const still = Math.abs(this.trace.at(-50) - energy) < 1e-4 * Math.abs(this.trace[0]);
    const settled = still && !this.temperature && this.steps > this.moved + 50;
    this.phase = !(Math.abs(energy) < 1e12) ? "exploded" : settled ? "settled" : "";
    if (this.phase) this.running = false;
  }

  schedule() {
    if (!this.running || !this.visible || this.waiting) return;
    this.waiting = requestAnimationFrame((now) => {
      this.waiting = null;
      const began = performance.now(), speed = +this.$(".el-speed").value;
      const passed = Math.min(now - (this.last ?? now), 100) / 1000;
      this.due = Math.min((this.due ?? 1) + speed * passed, speed);
      this.last = now;
      for (; this.due >= 1 && this.running && performance.now() - began < 12; this.due--) this.advance();
      this.draw();
      this.frame = performance.now() - began;
      this.schedule();
    });
  }

  // What is shown.

  draw() {
    if (!this.u) return;
    const now = (this.now = this.model.slope(this.u, this)), style = getComputedStyle(this.root);
    const zero = style.getPropertyValue("--el-zero").split(" ").map(Number);
    this.drawQuestion();
    if (this.key === "vae" && !this.seen.includes(1)) now.reads.fill(0); // its readout knows codes of images only
    const label = { name: { pc: "x</i>, the label<i>", vae: "readout", ebm: "p(y | x)" }[this.key], bars: now.reads };
    const cells = [label, ...now.cells()], box = this.$(".el-cells");
    if (box.dataset.key !== this.key) {
      box.dataset.key = this.key;
      box.innerHTML = cells.map(({ name, error, errorName, picture, bars }) => {
        const below = error ? `<div><i>${errorName}</i> <output></output></div><canvas role="img"></canvas>` : "";
        const kind = picture ? "el-picture" : bars ? "el-bars" : "";
        return `<div class="el-cell ${kind}"><div><i>${name}</i></div><canvas role="img"></canvas>${below}</div>`;
      }).join("");
    }
    cells.forEach(({ name, values, error, picture, bars }, i) => {
      const [canvas, below] = box.children[i].querySelectorAll("canvas"), plain = name.replace(/<.*?>/g, "");
      if (bars) return drawBars(canvas, bars, style.color);
      drawGrid(canvas, values, picture ? grey : diverging(zero));
      canvas.setAttribute("aria-label", picture ? `The picture ${plain}` : `${values.length} activities ${plain}`);
      if (!error) return;
      drawGrid(below, error, diverging(zero), picture && this.key !== "ebm" ? 1 : undefined);
      below.setAttribute("aria-label", `Errors below ${plain}`);
      box.children[i].querySelector("output").textContent = this.key === "pc" ? short(half(error)) : "";
    });
    this.drawTrace(now.energy);
    const strip = this.$(".el-strip canvas").getContext("2d");
    strip.clearRect(0, 0, 290, 28);
    this.strip.forEach((image, i) => strip.putImageData(pixelsOf(image, grey, 28), 29 * i, 0));
    this.drawControls();
    this.say(now);
  }

  drawQuestion() {
    const pen = this.$(".el-seen").getContext("2d");
    for (let i = 0; i < 784; i++) {
      const x = 10 * (i % 28), y = 10 * Math.floor(i / 28), ink = Math.round(255 * this.pixels[i]);
      pen.fillStyle = this.seen[i] ? `rgb(${ink},${ink},${ink})` : "#56708a";
      pen.fillRect(x, y, 10, 10);
      pen.fillStyle = "#6f8aa5"; // hidden pixels are hatched
      if (!this.seen[i]) for (let k = 0; k < 10; k += 5) pen.fillRect(x + k, y + 5 - k, 5, 5);
    }
    if (document.activeElement !== this.$(".el-seen")) return;
    pen.strokeStyle = "#E69F00";
    pen.lineWidth = 3;
    pen.strokeRect(10 * this.cursor[0], 10 * this.cursor[1], 10, 10);
  }

  drawTrace(energy) {
    const canvas = this.$(".el-trace canvas"), unit = devicePixelRatio;
    const width = (canvas.width = canvas.clientWidth * unit), height = (canvas.height = canvas.clientHeight * unit);
    const shown = [...this.trace.slice(-600), energy].filter(Number.isFinite);
    const log = shown.every((e) => e > 0), scaled = shown.map((e) => (log ? Math.log10(e) : e));
    const low = Math.min(...scaled), high = Math.max(...scaled, low + (log ? 0.3 : 0.01));
    const style = getComputedStyle(this.root), pen = canvas.getContext("2d");
    const x = (i) => 4 * unit + ((width - 60 * unit) * i) / Math.max(shown.length - 1, 60);
    const y = (e) => height - 6 * unit - ((height - 12 * unit) * (e - low)) / (high - low);
    pen.lineWidth = 2 * unit;
    pen.strokeStyle = this.crossed ? "#D55E00" : style.getPropertyValue("--el-curve");
    pen.beginPath();
    scaled.forEach((e, i) => pen.lineTo(x(i), y(e)));
    pen.stroke();
    pen.fillStyle = style.color;
    pen.font = `${11 * unit}px sans-serif`;
    pen.textAlign = "right";
    const value = (e) => short(log ? 10 ** e : e);
    pen.fillText(value(high), width - 4 * unit, 12 * unit);
    pen.fillText(value(low), width - 4 * unit, height - 4 * unit);
    const remarks = [this.steps > 600 && "the last 600 shown", log && "log scale"].filter(Boolean);
    const words = [`${short(energy)} after ${this.steps} steps`, ...remarks].join(", ");
    this.$(".el-trace div").innerHTML = `Energy <i>${this.about.F}</i> = ${words}`;
    canvas.setAttribute("aria-label", `Energy against step, from ${short(this.trace[0] ?? energy)} to ${words}`);
  }

  drawControls() {
    const { rates, temperatures } = this.about, mark = this.root.querySelectorAll(".el-mark");
    const rate = this.$(".el-rate"), temperature = this.$(".el-temperature");
    rate.value = place(rates, this.rate);
    temperature.value = this.temperature ? 0.05 + 0.95 * place(temperatures, this.temperature) : 0;
    const [rateWords, temperatureWords] = [short(this.rate), this.temperature ? short(this.temperature) : "0, no noise"];
    this.$(".el-rate-value").textContent = rateWords;
    this.$(".el-temperature-value").textContent = temperatureWords;
    rate.setAttribute("aria-valuetext", `${rateWords}; the limit is ${short(this.limit)}`);
    temperature.setAttribute("aria-valuetext", temperatureWords);
    [place(rates, this.limit), 0.05 + 0.95 * place(temperatures, this.about.temperature)].forEach((at, i) => {
      mark[i].style.setProperty("--at", at);
      mark[i].classList.toggle("el-left", at > 0.5);
    });
    mark[0].innerHTML = Number.isFinite(this.limit) ? `2/<i>λ</i><sub>max</sub> here = ${short(this.limit)}` : "";
    mark[1].textContent = this.about.typical;
    this.$("[data-do=run]").textContent = this.running ? "Pause" : "Run";
    this.$("[data-do=recover]").hidden = !this.crossed;
    const telling = this.about.labelled && !this.seen.includes(1);
    this.$(".el-what").textContent = telling ? "Label" : "Test image";
    for (const button of this.root.querySelectorAll("[data-digit]")) {
      button.setAttribute("aria-label", `${telling ? "Label" : "Test image of a"} ${button.dataset.digit}`);
    }
    for (const button of this.root.querySelectorAll("[data-ask]")) {
      button.setAttribute("aria-pressed", button.dataset.ask === this.question);
    }
    this.$(".el-note").textContent = this.about.notes[this.question];
    this.$(`.el-label [value="${this.label ?? ""}"]`).checked = true;
  }

  /** The state in words. Screen readers hear it when its kind changes, or all of it at rest. */
  say({ energy, reads, hidden }) {
    const order = [...reads.keys()].sort((a, b) => reads[b] - reads[a]), [best, next] = order;
    const [first, second] = [best, next].map((c) => `${c} (${reads[c].toFixed(2)})`);
    const free = reads[best] ? `Reads ${first}, then ${second}.` : "";
    const reading = this.label === null ? free : `The label is clamped to ${this.label}.`;
    const off = hidden ? hidden.filter((z) => z <= 0).length : 0;
    const [at, eta] = [short(energy), short(this.rate)];
    let kind = "running", words = `Step ${this.steps}: energy ${at}.`;
    if (this.phase === "exploded") {
      [kind, words] = ["exploded", `The energy exploded: the rate ${eta} is far above the limit.`];
    } else if (hidden && off > 0.6 * hidden.length && this.crossed) {
      const thrown = `${off} of ${hidden.length} hidden units were thrown below zero.`;
      [kind, words] = ["off", `${thrown} A unit that is off hears nothing from the image, so the energy stays high: ${at}.`];
    } else if (this.phase === "settled") {
      [kind, words] = ["settled", `Settled after ${this.steps} steps at energy ${at}.`];
    } else if (this.crossed || this.rate > this.limit) {
      const limit = short(this.crossed || this.limit);
      [kind, words] = ["above", `The rate ${eta} went above the limit ${limit}: the energy jumps about instead of settling.`];
    } else if (this.temperature) {
      [kind, words] = ["noisy", `Step ${this.steps}: energy ${at}, and noise keeps it moving.`];
    } else if (!this.running) {
      [kind, words] = ["paused", `Stopped at step ${this.steps}, energy ${at}.`];
    }
    const bad = ["exploded", "off"].includes(kind), all = bad ? words : `${words} ${reading}`;
    this.$(".el-words").textContent = all;
    if (kind !== this.state || !this.running) this.$(".el-live").textContent = all;
    this.state = kind;
    this.root.dataset.state = kind;
    this.root.dataset.model = this.key;
  }

  // What the reader does.

  listen() {
    const doings = {
      run: () => { this.running = !this.running; this.moved = this.steps; this.phase = ""; this.draw(); this.schedule(); },
      step: () => { this.running = false; this.advance(); this.findLimit(); this.draw(); },
      again: () => this.restart(),
      recover: () => { this.restart(); this.rate = this.limit / 2; this.draw(); },
      clear: () => { this.pixels.fill(0); this.seen.fill(1); this.restart(); },
      half: () => { this.seen.fill(0, 392); this.restart(); },
      show: () => { this.seen.fill(1); this.restart(); },
    };
    this.root.addEventListener("click", ({ target }) => {
      const { ask, do: doing, digit } = target.dataset;
      if (ask) this.ask(ask);
      if (doing) doings[doing]();
      if (digit) this.chooseDigit(+digit);
    });
    this.root.addEventListener("change", ({ target }) => {
      if (target.closest(".el-model")) this.open(target.value);
      if (target.closest(".el-label")) { this.label = target.value === "" ? null : +target.value; this.restart(); }
    });
    this.$(".el-rate").addEventListener("input", ({ target }) => {
      this.rate = power(this.about.rates, +target.value);
      if (this.rate < this.crossed) this.restart();
      this.goOn();
    });
    this.$(".el-temperature").addEventListener("input", ({ target }) => {
      this.temperature = +target.value < 0.05 ? 0 : power(this.about.temperatures, (+target.value - 0.05) / 0.95);
      this.goOn();
    });
    this.listenToPen(this.$(".el-seen"));
  }

  /** A slider moved: what had settled has reason to move again. */
  goOn() {
    this.moved = this.steps;
    if (this.phase === "settled") this.running = !this.still;
    this.draw();
    this.schedule();
  }

  listenToPen(canvas) {
    let last = null;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * 28, ((event.clientY - box.top) / box.height) * 28];
    };
    const stroke = (to) => {
      const from = last ?? to, parts = Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1])) || 1;
      for (let k = 1; k <= parts; k++) this.paint(...[0, 1].map((axis) => from[axis] + ((to[axis] - from[axis]) * k) / parts));
      last = to;
    };
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); stroke(at(event)); });
    canvas.addEventListener("pointermove", (event) => last && stroke(at(event)));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (last = null));
    for (const change of ["focus", "blur"]) canvas.addEventListener(change, () => this.drawQuestion());
    canvas.addEventListener("keydown", (event) => {
      const [across, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
      if (!across && !down && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation(); // arrow keys turn the pages of the book
      this.cursor = [this.cursor[0] + across, this.cursor[1] + down].map((c) => Math.min(Math.max(c, 0), 27));
      if (event.key === " " || event.shiftKey) this.paint(this.cursor[0] + 0.5, this.cursor[1] + 0.5);
      const [x, y] = this.cursor, i = 28 * y + x;
      const what = this.seen[i] ? `ink ${Math.round(100 * this.pixels[i])} percent` : "hidden";
      this.$(".el-cursor").textContent = `row ${y + 1}, column ${x + 1}: ${what}`;
      this.drawQuestion();
    });
  }
}

// ---- Canvases -----------------------------------------------------------------------------

const grey = (value) => Array(3).fill(255 * value);

/** Orange above zero, blue below, `zero` between. */
const diverging = (zero) => (value) => (value < 0 ? [0, 114, 178] : [230, 159, 0]).map((c, i) => zero[i] + (c - zero[i]) * Math.min(Math.abs(value), 1));

function pixelsOf(values, colour, columns, scale = 1) {
  const picture = new ImageData(columns, Math.ceil(values.length / columns));
  values.forEach((value, i) => picture.data.set([...colour(value / scale), 255], 4 * i));
  return picture;
}

/** Values as a nearly square grid of pixels; the largest in size has the full colour. */
function drawGrid(canvas, values, colour, scale = colour === grey ? 1 : Math.max(1e-9, ...map(values, Math.abs))) {
  const columns = Math.ceil(Math.sqrt(values.length)), rows = Math.ceil(values.length / columns);
  if (canvas.width !== columns || canvas.height !== rows) Object.assign(canvas, { width: columns, height: rows });
  canvas.getContext("2d").putImageData(pixelsOf(values, colour, columns, scale), 0, 0);
}

function drawBars(canvas, values, ink) {
  Object.assign(canvas, { width: 140, height: 190 });
  canvas.setAttribute("aria-label", `Label: ${[...values].map((v, c) => `${c} ${v.toFixed(2)}`).join(", ")}`);
  const pen = canvas.getContext("2d"), scale = Math.max(1, ...values);
  pen.font = "17px sans-serif";
  values.forEach((value, c) => {
    pen.fillStyle = ink;
    pen.fillText(c, 0, 19 * c + 15);
    pen.fillStyle = value === Math.max(...values) ? "#E69F00" : "#56B4E9";
    pen.fillRect(18, 19 * c + 3, Math.max((122 * value) / scale, 1), 13);
  });
}

// ---- Where to put it ----------------------------------------------------------------------
// <div data-energy-lab="live"></div>, with data-size="small" for the small one. A notebook gives its
// own arrays as base64 in data-arrays; the website's lie beside this file.

for (const root of document.querySelectorAll("[data-energy-lab]:not(.energy-lab)")) {
  const { arrays, size } = root.dataset, fetched = async (url) => readNpz(await (await fetch(url)).arrayBuffer());
  const own = arrays && fetched(`data:application/octet-stream;base64,${arrays}`);
  const load = own ? () => own : (name) => fetched(new URL(`live_${name}.npz`, import.meta.url));
  root.lab = new Lab(root, load, { small: size === "small", only: own && "pc" });
}
