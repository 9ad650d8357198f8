// A landscape seen from above, the paths of optimizers on it, and their step sizes; see landscape_tab.py.
// The server computes everything; here a race is only drawn. Colours are page.css's.
const SECONDS = 9; // of a whole race
const STEP = 1 / 24; // of an arrow key, as a share of the width

export default {
  template: `
    <div>
      <canvas ref="map" class="map-board" tabindex="0" role="application"
        aria-label="Landscape" aria-describedby="map-help" @click="click" @keydown="key" @blur="blur"></canvas>
      <p id="map-help" class="small" style="margin: .4rem 0 0">Click a start; or arrow keys and <kbd>Enter</kbd>.
        + is the minimum.</p>
      <div class="player">
        <button type="button" @click="toggle">{{ playing ? "Pause" : "Play" }}</button>
        <input type="range" min="1" :max="last" :value="Math.floor(now)" @input="seek" aria-label="Evaluation">
        <output>evaluation {{ Math.floor(now) }}</output>
      </div>
      <canvas ref="steps" class="step-board" role="img"
        aria-label="Step sizes of both coordinates by evaluation, logarithmic"></canvas>
    </div>`,
  props: { scene: Object, trails: Array },
  data: () => ({ now: 1, playing: false }),
  computed: {
    last() {
      return Math.max(2, ...this.trails.map((trail) => trail.shown));
    },
  },
  watch: {
    scene() {
      this.cursor = null;
      this.draw();
    },
    trails() {
      this.now = 1;
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      if (still) this.now = this.last;
      this.play(!still && this.trails.length > 0);
    },
  },
  created() {
    this.cursor = null;
  },
  mounted() {
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.$refs.map);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.scheme.addEventListener("change", this.draw);
  },
  unmounted() {
    this.observer.disconnect();
    this.scheme.removeEventListener("change", this.draw);
    cancelAnimationFrame(this.frame);
  },
  methods: {
    play(yes) {
      cancelAnimationFrame(this.frame);
      this.playing = yes;
      this.before = null;
      if (yes) this.frame = requestAnimationFrame(this.tick);
      this.draw();
    },
    tick(time) {
      const seconds = this.before === null ? 0 : Math.min(0.1, (time - this.before) / 1000);
      this.before = time;
      this.now = Math.min(this.last, this.now + (seconds * this.last) / SECONDS);
      this.draw();
      if (this.now >= this.last) this.playing = false;
      else this.frame = requestAnimationFrame(this.tick);
    },
    toggle() {
      if (!this.playing && this.now >= this.last) this.now = 1;
      this.play(!this.playing);
    },
    seek(event) {
      this.now = Number(event.target.value);
      this.play(false);
    },
    click(event) {
      const box = this.$refs.map.getBoundingClientRect();
      this.cursor = null;
      this.choose((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    },
    key(event) {
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const move = moves[event.key];
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (move) {
        const inside = (value) => Math.min(1, Math.max(0, value));
        const [x, y] = this.cursor ?? this.share(this.scene.start);
        this.cursor = [inside(x + move[0] * STEP), inside(y + move[1] * STEP)];
      } else if ((event.key === "Enter" || event.key === " ") && this.cursor) {
        this.choose(...this.cursor);
      } else {
        return;
      }
      event.preventDefault();
      this.draw();
    },
    blur() {
      this.cursor = null;
      this.draw();
    },
    share([x, y]) {
      const { lower, upper } = this.scene;
      return [(x - lower[0]) / (upper[0] - lower[0]), (upper[1] - y) / (upper[1] - lower[1])];
    },
    choose(right, down) {
      const { lower, upper } = this.scene;
      const x = lower[0] + right * (upper[0] - lower[0]);
      const y = upper[1] - down * (upper[1] - lower[1]);
      this.$emit("start", { x, y });
    },
    canvas(board, height) {
      const scale = window.devicePixelRatio || 1;
      const [wide, high] = [board.clientWidth, height ?? board.clientHeight];
      if (height) board.style.height = `${height}px`;
      const size = [Math.round(wide * scale), Math.round(high * scale)];
      if (board.width !== size[0] || board.height !== size[1]) [board.width, board.height] = size;
      const to = board.getContext("2d");
      to.setTransform(scale, 0, 0, scale, 0, 0);
      to.clearRect(0, 0, wide, high);
      to.lineJoin = to.lineCap = "round";
      return [to, wide, high];
    },
    draw() {
      if (!this.$refs.map?.clientWidth || !this.scene) return;
      const style = getComputedStyle(this.$refs.map);
      this.colour = (name) => style.getPropertyValue(name);
      this.drawMap();
      this.drawSteps();
    },
    drawMap() {
      const { lower, upper, contours, minimum } = this.scene;
      const width = this.$refs.map.clientWidth;
      const [to, wide, high] = this.canvas(
        this.$refs.map, (width * (upper[1] - lower[1])) / (upper[0] - lower[0]));
      const place = (point) => {
        const [x, y] = this.share(point);
        return [x * wide, y * high];
      };
      to.lineWidth = 1;
      to.strokeStyle = this.colour("--contour");
      for (const line of contours) {
        to.beginPath();
        for (let k = 0; k < line.length; k += 2) to.lineTo(...place([line[k], line[k + 1]]));
        to.stroke();
      }
      const [x, y] = place(minimum);
      to.lineWidth = 3;
      to.strokeStyle = this.colour("--ink");
      to.beginPath();
      to.moveTo(x - 9, y), to.lineTo(x + 9, y), to.moveTo(x, y - 9), to.lineTo(x, y + 9);
      to.stroke();
      const far = (point) => place(point).map((at) => Math.min(1e5, Math.max(-1e5, at)));
      for (const trail of this.trails) {
        const count = this.seen(trail);
        to.strokeStyle = this.colour(`--run-${trail.colour}`);
        to.lineWidth = 2.2;
        to.beginPath();
        for (let k = 0; k < count; k++) to.lineTo(...far(trail.points[k]));
        to.stroke();
      }
      for (const trail of this.trails)
        this.mark(to, trail, far(trail.points[this.seen(trail) - 1]), 19);
      const start = this.cursor ? [this.cursor[0] * wide, this.cursor[1] * high] : place(this.scene.start);
      to.lineWidth = 3;
      to.strokeStyle = this.cursor ? this.colour("--focus") : this.colour("--ink");
      to.fillStyle = this.colour("--card");
      to.beginPath();
      to.arc(...start, 6, 0, 2 * Math.PI);
      to.fill();
      to.stroke();
    },
    seen(trail) {
      let count = trail.evaluations.findIndex((evaluation) => evaluation > this.now);
      if (count < 0) count = trail.evaluations.length;
      return Math.max(1, count);
    },
    mark(to, trail, [x, y], size) {
      to.font = `${size}px system-ui, sans-serif`;
      to.textAlign = "center";
      to.textBaseline = "middle";
      to.lineWidth = 4;
      to.strokeStyle = this.colour("--card");
      to.fillStyle = this.colour(`--run-${trail.colour}`);
      to.strokeText(trail.mark, x, y);
      to.fillText(trail.mark, x, y);
    },
    drawSteps() {
      const [to, wide, high] = this.canvas(this.$refs.steps);
      const ink = this.colour("--soft");
      const sizes = this.trails.flatMap((trail) => trail.steps.flat()).filter((size) => size > 0);
      const edge = (value) => Math.min(2, Math.max(-6, value));
      const low = edge(Math.floor(Math.log10(sizes.reduce((a, b) => Math.min(a, b), 1))));
      const top = edge(Math.ceil(Math.log10(sizes.reduce((a, b) => Math.max(a, b), 0.01))));
      const [left, right, gap] = [44, 14, 34];
      const panel = (high - 2 * gap) / 2;
      to.font = "13px system-ui, sans-serif";
      ["x", "y"].forEach((name, axis) => {
        const upper = 20 + axis * (panel + gap);
        const down = (power) => upper + ((top - power) / (top - low)) * panel;
        const across = (evaluation) => left + ((evaluation - 1) / (this.last - 1)) * (wide - left - right);
        to.fillStyle = ink;
        to.textAlign = "left";
        to.textBaseline = "alphabetic";
        to.fillText(`step size of ${name}`, left, upper - 6);
        to.textAlign = "right";
        to.textBaseline = "middle";
        to.lineWidth = 1;
        to.strokeStyle = this.colour("--line");
        const stride = Math.ceil((top - low) / 4);
        for (let power = top; power >= low; power -= stride) {
          to.fillText(`1e${power}`, left - 6, down(power));
          to.beginPath();
          to.moveTo(left, down(power)), to.lineTo(wide - right, down(power));
          to.stroke();
        }
        to.save();
        to.beginPath();
        to.rect(left, upper - 2, wide - left - right + 12, panel + 4);
        to.clip();
        for (const trail of this.trails) {
          let at = null;
          to.lineWidth = 2;
          to.strokeStyle = this.colour(`--run-${trail.colour}`);
          to.beginPath();
          for (let k = 0; k < this.seen(trail); k++) {
            const size = trail.steps[k][axis];
            if (!(size > 0)) continue;
            at = [across(trail.evaluations[k]), down(Math.max(low, Math.log10(size)))];
            to.lineTo(...at);
          }
          to.stroke();
          if (at) this.mark(to, trail, at, 14), (to.font = "13px system-ui, sans-serif");
        }
        to.restore();
      });
      to.fillStyle = ink;
      to.textBaseline = "alphabetic";
      to.textAlign = "right";
      to.fillText(`evaluation ${this.last}`, wide - right, high - 2);
      to.textAlign = "left";
      to.fillText("1", left, high - 2);
    },
  },
};
