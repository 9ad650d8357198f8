// The drawing area of serve.py: mouse, finger, pen or keyboard. Points are shares of the side, 0 .. 1.
const PEN = 0.08; // width of the line; the server scales drawings, so this is for the eye alone
const STEP = 1 / 40; // of an arrow key; with Shift a quarter of it
const PAUSE = 40; // milliseconds between two messages while drawing

export default {
  template: `
    <div class="pad">
      <canvas ref="board" class="pad-board" tabindex="0" role="application"
        aria-label="Drawing area" aria-describedby="pad-help"
        @pointerdown="down" @pointermove="move" @pointerup="up" @pointercancel="up"
        @keydown="key" @blur="leave"></canvas>
      <p id="pad-help" class="pad-help">Mouse or finger; or arrow keys, with <kbd>Space</kbd> to put the pen down and
        lift it, <kbd>Delete</kbd> to clear.</p>
      <p class="pad-pen" role="status">{{ status }}</p>
    </div>`,
  props: {},
  data: () => ({ status: "" }),
  created() {
    // Not reactive: hundreds of points a second.
    Object.assign(this, { strokes: [], sent: 0, pointer: null, pen: { x: 0.5, y: 0.5 }, down_by_key: false });
    this.keyboard = false;
    this.timer = null;
  },
  mounted() {
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.$refs.board);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.scheme.addEventListener("change", this.draw);
  },
  unmounted() {
    this.observer.disconnect();
    this.scheme.removeEventListener("change", this.draw);
    clearTimeout(this.timer);
  },
  methods: {
    down(event) {
      if (event.button !== 0 || this.pointer !== null) return;
      this.leave();
      this.keyboard = false;
      this.pointer = event.pointerId;
      this.$refs.board.setPointerCapture(event.pointerId);
      this.begin(this.place(event));
    },
    move(event) {
      if (event.pointerId !== this.pointer) return;
      const all = event.getCoalescedEvents?.() ?? [];
      (all.length ? all : [event]).forEach((one) => this.line(this.place(one)));
    },
    up(event) {
      if (event.pointerId === this.pointer) this.pointer = null;
    },
    leave() {
      if (this.down_by_key) this.status = "pen up";
      this.down_by_key = this.keyboard = false;
      this.draw();
    },
    key(event) {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const direction = directions[event.key];
      if (direction) {
        const step = event.shiftKey ? STEP / 4 : STEP;
        const inside = (value) => Math.min(1, Math.max(0, value));
        this.pen = { x: inside(this.pen.x + direction[0] * step), y: inside(this.pen.y + direction[1] * step) };
        if (this.down_by_key) this.line([this.pen.x, this.pen.y]);
      } else if (event.key === " " || event.key === "Enter") {
        if (event.repeat) return event.preventDefault();
        this.down_by_key = !this.down_by_key;
        this.status = this.down_by_key ? "pen down" : "pen up";
        if (this.down_by_key) this.begin([this.pen.x, this.pen.y]);
      } else if (event.key === "Delete" || event.key === "Backspace") {
        this.wipe();
      } else if (event.key === "Escape" && this.down_by_key) {
        this.down_by_key = false;
        this.status = "pen up";
      } else {
        return; // Tab among others: the focus must not be trapped
      }
      this.keyboard = true;
      event.preventDefault();
      this.draw();
    },
    place(event) {
      const box = this.$refs.board.getBoundingClientRect();
      const share = (at, from, size) => Math.min(1, Math.max(0, (at - from) / size));
      return [share(event.clientX, box.left, box.width), share(event.clientY, box.top, box.height)];
    },
    begin(point) {
      this.strokes.push([point]);
      this.later();
      this.draw();
    },
    line(point) {
      this.strokes[this.strokes.length - 1].push(point);
      this.later();
      this.draw();
    },
    later() {
      this.timer ??= setTimeout(() => this.send(), PAUSE);
    },
    send() {
      this.timer = null;
      // What is new, stroke by stroke; `sent` counts points over all strokes.
      let before = 0;
      this.strokes.forEach((stroke, number) => {
        const from = Math.max(0, this.sent - before);
        before += stroke.length;
        if (from < stroke.length) this.$emit("ink", { stroke: number, points: stroke.slice(from) });
      });
      this.sent = before;
    },
    wipe() {
      clearTimeout(this.timer);
      Object.assign(this, { strokes: [], sent: 0, timer: null, pointer: null, down_by_key: false });
      this.status = "cleared";
      this.$emit("wipe");
      this.draw();
    },
    draw() {
      const board = this.$refs.board;
      if (!board) return;
      const side = Math.round(board.clientWidth * (window.devicePixelRatio || 1));
      if (board.width !== side) board.width = board.height = side;
      const to = board.getContext("2d");
      to.clearRect(0, 0, side, side);
      to.lineWidth = PEN * side;
      to.lineCap = to.lineJoin = "round";
      const colour = (name) => getComputedStyle(board).getPropertyValue(name);
      to.strokeStyle = colour("--ink");
      for (const stroke of this.strokes) {
        to.beginPath();
        to.moveTo(stroke[0][0] * side, stroke[0][1] * side);
        for (const [x, y] of stroke) to.lineTo(x * side, y * side);
        to.stroke();
      }
      if (this.keyboard) {
        to.beginPath();
        to.arc(this.pen.x * side, this.pen.y * side, (PEN / 2) * side, 0, 2 * Math.PI);
        to.lineWidth = 0.012 * side;
        to.strokeStyle = "#D55E00";
        to.fillStyle = this.down_by_key ? "#D55E00" : colour("--card");
        to.fill();
        to.stroke();
      }
    },
  },
};
