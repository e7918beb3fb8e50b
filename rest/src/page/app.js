// A whole client of the Asobi protocol in one file, to be read from top to bottom:
//   1. who we are      a guest, known by a random device secret
//   2. the connection  one WebSocket at a time; requests, replies and pushes; coming back when it is lost
//   3. the lobby       chat that misses nothing, and who is there
//   4. the match       queueing, the hop to the match's own node, playing

const $ = (id) => document.getElementById(id);
const LOBBY = "global:lobby";
const MODE = "arena";
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// ---- 1. Who we are -------------------------------------------------------------------------------------------------

// Kept per window (sessionStorage, not localStorage), so that two windows are two players and a reload is none.
function device() {
  if (!sessionStorage.deviceSecret) {
    const secret = crypto.getRandomValues(new Uint8Array(32));
    sessionStorage.deviceSecret = btoa(String.fromCharCode(...secret));
    sessionStorage.deviceId = `page-${btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(12))))}`;
  }
  return { device_id: sessionStorage.deviceId, device_secret: sessionStorage.deviceSecret };
}

const me = { id: null, name: null, access: null, refresh: null };

// Calls the REST API of the node we are connected to; any node answers alike. A token that has run out is renewed once.
async function rest(method, path, body, again = true) {
  const headers = { "content-type": "application/json" };
  if (me.access) headers.authorization = `Bearer ${me.access}`;
  const base = connection.url.replace(/^ws/, "http").replace(/\/ws$/, "");
  const answer = await fetch(`${base}/api/v1${path}`, { method, headers, body: body && JSON.stringify(body) });
  const json = await answer.json();
  if (answer.status === 401 && again && !path.startsWith("/auth/")) {
    await renew();
    return rest(method, path, body, false);
  }
  if (!answer.ok) throw Object.assign(new Error(json.error.message), { code: json.error.code, status: answer.status });
  return json;
}

async function signIn() {
  me.access = null;
  const guest = await rest("POST", "/auth/guest", device());
  Object.assign(me, { id: guest.player_id, name: guest.username, access: guest.access_token, refresh: guest.refresh_token });
  names.set(me.id, me.name);
  asked.set(me.id, Promise.resolve(me.name));
  show("me", me.name);
}

// Access tokens live some minutes. The refresh token works once and brings its successor; if it fails, the device does.
// Callers that come together share one renewal: a refresh token presented twice would end the login.
let renewing = null;
function renew() {
  const once = async () => {
    try {
      const pair = await rest("POST", "/auth/refresh", { refresh_token: me.refresh });
      Object.assign(me, { access: pair.access_token, refresh: pair.refresh_token });
    } catch (error) {
      if (error.status !== 401) throw error;
      await signIn();
    }
  };
  renewing ??= once().finally(() => { renewing = null; });
  return renewing;
}

// ---- 2. The connection ---------------------------------------------------------------------------------------------

const HOME = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`;
const connection = { url: HOME, socket: null, node: null, failures: 0, migration: null };
const waiting = new Map(); // cid → what to do with its reply
const unreachable = new Map(); // address → when it failed
let lastCid = 0;

// Sends a frame and returns its reply's payload. Exactly one frame comes back with our cid: the reply or an error.
function request(type, payload = {}) {
  return new Promise((resolve, reject) => {
    if (connection.socket?.readyState !== WebSocket.OPEN) return reject(new Error("not connected"));
    const cid = String(++lastCid);
    const timer = setTimeout(() => settle(cid, null, new Error("no answer")), 10_000);
    waiting.set(cid, { resolve, reject, timer });
    connection.socket.send(JSON.stringify({ type, cid, payload }));
  });
}

// Sends a frame that nobody answers.
function send(type, payload) {
  if (connection.socket?.readyState === WebSocket.OPEN) connection.socket.send(JSON.stringify({ type, payload }));
}

function settle(cid, payload, error) {
  const { resolve, reject, timer } = waiting.get(cid) ?? {};
  if (!resolve) return;
  waiting.delete(cid);
  clearTimeout(timer);
  if (error) reject(error); else resolve(payload);
}

function receive(text) {
  const { type, cid, payload } = JSON.parse(text);
  if (cid !== undefined && type === "error") {
    settle(cid, null, Object.assign(new Error(payload.error.message), { reason: payload.reason }));
  } else if (cid !== undefined) {
    settle(cid, payload);
  } else {
    pushes[type]?.(payload); // games and later servers send types we do not know: they are ignored
  }
}

// Opens a socket, says who we are on it, and takes up again what we had: lobby and match.
function open(url) {
  connection.url = url;
  show("status", "Connecting…");
  const socket = new WebSocket(url);
  connection.socket = socket;
  let entered = false;
  // A packet filter may swallow the attempt; the browser's own patience is minutes.
  const patience = setTimeout(() => { if (!entered) lost(socket, { code: 1006, reason: "" }, false); }, 10_000);
  socket.onmessage = ({ data }) => { if (connection.socket === socket) receive(data); };
  socket.onopen = async () => {
    try {
      await enter();
      entered = true;
      connection.failures = 0;
    } catch (error) {
      note(`The node did not let us in: ${error.message}`);
      socket.close(1000);
      lost(socket, { code: 1006, reason: "" }, false);
    }
  };
  socket.onclose = (event) => { clearTimeout(patience); lost(socket, event, entered); };
}

async function enter() {
  const { migration } = connection;
  connection.migration = null;
  const capabilities = ["migrate", "presence", "queue"];
  const hello = (proof) => request("session.connect", { ...proof, capabilities });
  let session;
  try {
    session = await hello(migration ? { migration_token: migration.token } : { token: me.access });
  } catch (error) {
    if (error.reason !== "invalid_token") throw error;
    // Used up or run out; the socket stays open for another try.
    if (!migration) await renew();
    session = await hello({ token: me.access });
  }
  connection.node = session.node_id;
  show("node", session.node_id);
  show("status", "Connected.");
  if (migration) note(`Hopped to ${session.node_id}, the node of the match.`);
  if (session.match_id) begin(session.match_id); else if (match.id) end("The match is over.");
  await joinLobby();
}

// What a close code means for us. Everything else, such as 1001, 1006 and 1013: come back, a little later each time.
const AT_ONCE = [1012, 4001]; // the node restarts; we read too slowly and shall resume
const FINAL = {
  4002: "Another connection of yours took over.",
  session_revoked: "You were signed out.",
  origin_rejected: "This page may not connect to that server.",
};

async function lost(socket, { code, reason }, entered) {
  if (connection.socket !== socket) return; // closed by ourselves, for another one
  connection.socket = null;
  socket.close();
  for (const cid of [...waiting.keys()]) settle(cid, null, new Error("connection lost"));
  const end = FINAL[code] ?? FINAL[code === 1008 ? reason : ""];
  if (end) return signedOut(end);
  note(`Connection lost (${code}${reason ? ` ${reason}` : ""}).`);
  show("node", "–");
  // The match's node may be out of our reach, or gone: the address we first used leads into the match just as well.
  if (connection.url !== HOME) {
    if (!entered) unreachable.set(connection.url, Date.now());
    return open(HOME);
  }
  const tries = connection.failures++;
  const pause = AT_ONCE.includes(code) && tries === 0 ? 0 : Math.min(500 * 2 ** tries, 10_000) * (0.5 + Math.random() / 2);
  show("status", `Connecting again in ${(pause / 1000).toFixed(1)} s…`);
  await sleep(pause);
  if (!connection.socket) open(HOME);
}

// Shows the node that we are alive, and us whether it is.
setInterval(() => {
  const { socket } = connection;
  if (socket?.readyState !== WebSocket.OPEN || !me.access) return;
  request("session.heartbeat").catch(() => lost(socket, { code: 1006, reason: "silent" }, true));
}, 20_000);

// ---- 3. The lobby --------------------------------------------------------------------------------------------------

let lastSeq = null; // of the last message we have: what a re-join continues from
const names = new Map(); // player id → name, as far as we know
const asked = new Map(); // player id → promise of the name
const people = new Map(); // player id → status; friends and those who spoke
const friends = new Set();

async function joinLobby() {
  if (lastSeq === null) {
    const { messages } = await rest("GET", `/chat/${encodeURIComponent(LOBBY)}/history?limit=30`);
    lastSeq = 0;
    messages.forEach(hear);
  }
  // What was said while we were away follows as ordinary messages, in order, before new ones.
  const joined = await request("chat.join", { channel_id: LOBBY, since_seq: lastSeq });
  if (joined.truncated) note("You were away long; the oldest messages are not shown.");
}

async function hear({ seq, sender_id, content }) {
  if (seq <= lastSeq) return; // the end of the history and the beginning of the channel may overlap
  lastSeq = seq;
  const line = document.createElement("li");
  const who = document.createElement("b");
  line.append(who, content); // as text, never as HTML
  $("chat").append(line);
  while ($("chat").children.length > 200) $("chat").firstChild.remove();
  $("chat").scrollTop = $("chat").scrollHeight;
  if (sender_id !== me.id && !people.has(sender_id)) setPerson(sender_id, "spoke");
  who.textContent = await nameOf(sender_id);
}

// Asks once for each player, whoever wants to know.
function nameOf(id) {
  if (!asked.has(id)) {
    const name = rest("GET", `/players/${id}`).then((player) => player.username, () => id.slice(-6));
    asked.set(id, name.then((known) => { names.set(id, known); return known; }));
  }
  return asked.get(id);
}

async function setPerson(id, status) {
  people.set(id, status);
  await nameOf(id);
  const rows = [...people].map(([person, state]) => {
    const row = document.createElement("li");
    row.className = state === "offline" || state === "spoke" ? "" : "here";
    row.append(`${called(person)} (${state})`);
    if (!friends.has(person)) row.append(button("Befriend", () => befriend(person)));
    return row;
  });
  $("online").replaceChildren(...rows);
}

// Asks, or if the other has asked us, says yes. From then on each sees the other come and go.
async function befriend(id) {
  const { status } = await rest("POST", "/friends", { friend_id: id });
  note(status === "accepted" ? `You and ${called(id)} are friends.` : `${called(id)} has to befriend you too.`);
  if (status === "accepted") friends.add(id);
  setPerson(id, people.get(id));
}

$("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  const content = $("text").value.trim();
  if (!content) return;
  // With the key, sending again after a lost connection cannot say it twice.
  const message = { channel_id: LOBBY, content, idempotency_key: crypto.getRandomValues(new Uint32Array(4)).join("-") };
  $("text").value = "";
  for (let attempt = 0; attempt < 5; attempt++) {
    try { return await request("chat.send", message); } catch (error) {
      if (error.reason && error.reason !== "unconfirmed") return note(`Not sent: ${error.message}`);
      await sleep(1000);
    }
  }
  note("Not sent: no connection.");
});

// ---- 4. The match --------------------------------------------------------------------------------------------------

const match = { id: null, last: null, next: null, at: 0 };
const queue = { ticket: null, since: 0, estimate: null, timer: null };
const held = new Set(); // keys that are down
let pointer = null; // where the pointer aims, in the arena

async function play() {
  $("play").hidden = true;
  try {
    const queued = await request("matchmaker.add", { mode: MODE });
    if (match.id) return; // it was that fast
    Object.assign(queue, { ticket: queued.ticket_id, since: Date.now(), estimate: queued.estimated_wait_ms });
    $("cancel").hidden = false;
    queue.timer = setInterval(showWait, 500);
    showWait();
  } catch (error) {
    unqueue(`Not queued: ${error.message}`);
  }
}

function showWait() {
  const seconds = Math.round((Date.now() - queue.since) / 1000);
  const estimate = queue.estimate == null ? "" : `, about ${Math.ceil(queue.estimate / 1000)} s in all`;
  show("wait", `Looking for an opponent: ${seconds} s${estimate}.`);
}

function unqueue(why = "") {
  clearInterval(queue.timer);
  queue.ticket = null;
  $("cancel").hidden = true;
  $("play").hidden = match.id !== null;
  show("wait", why);
}

async function cancel() {
  try { await request("matchmaker.remove", { ticket_id: queue.ticket }); unqueue(); } catch { /* matched just now */ }
}

function begin(id) {
  const known = match.id === id;
  match.id = id;
  unqueue();
  $("leave").hidden = false;
  // Should it be on another node, match.migrate says so in a moment.
  show("match-node", connection.node);
  if (known) return;
  Object.assign(match, { last: null, next: null });
  note(`In the match ${id.slice(-6)}.`);
  $("arena").focus();
}

function end(why) {
  Object.assign(match, { id: null, last: null, next: null });
  $("leave").hidden = true;
  show("scores", "");
  unqueue(why);
  show("match-node", "–");
  note(why);
}

// What a node may tell us without being asked.
const pushes = {
  "chat.message": (message) => { if (message.channel_id === LOBBY) hear(message); },
  "presence.snapshot": ({ friends: all }) => all.forEach((f) => { friends.add(f.player_id); setPerson(f.player_id, f.status); }),
  "presence.changed": ({ player_id, status }) => { friends.add(player_id); setPerson(player_id, status); },
  "session.revoked": ({ reason }) => note(`Signed out: ${reason}.`),
  "matchmaker.status": ({ estimated_wait_ms }) => { queue.estimate = estimated_wait_ms; },
  "match.matchmaker_expired": () => unqueue("Nobody came. Try again?"),
  "match.matchmaker_failed": () => unqueue("The match could not be started. Try again?"),
  "match.matched": ({ match_id }) => begin(match_id), // we are in: no join follows

  // The match lives on another node. We may stay, and every frame takes one hop more; or we go there.
  "match.migrate": (migration) => {
    show("match-node", migration.node_id);
    if (Date.now() - (unreachable.get(migration.url) ?? 0) < 60_000) return note(`${migration.node_id} is out of reach; we stay.`);
    note(`The match is on ${migration.node_id} (${migration.reason}); hopping there from ${connection.node}.`);
    const old = connection.socket;
    connection.socket = null;
    old.close(1000);
    for (const cid of [...waiting.keys()]) settle(cid, null, new Error("moving"));
    connection.migration = migration; // its token works once, and is never part of the address
    open(migration.url);
  },

  "match.state": (state) => {
    Object.assign(match, { last: match.next ?? state, next: state, at: performance.now() });
    showScores(state);
  },
  "match.hit": async ({ shooter, victim }) => note(`${await nameOf(shooter)} hit ${await nameOf(victim)}.`),
  "match.finished": async ({ match_id, result }) => {
    if (match.id && match_id && match_id !== match.id) return;
    const winner = result?.winner;
    end(winner === me.id ? "You won!" : winner ? `${await nameOf(winner)} won.` : "The match ended without a winner.");
  },
  error: ({ error }) => note(error.message),
};

// Inputs: the whole of what we do, whenever it changes, and while we shoot at every state, because the target moves.
const MOVES = { ArrowLeft: [-1, 0], a: [-1, 0], ArrowRight: [1, 0], d: [1, 0], ArrowUp: [0, -1], w: [0, -1], ArrowDown: [0, 1], s: [0, 1] };

function input() {
  const own = match.next?.players?.[me.id];
  if (!match.id || !own) return;
  const [x, y] = [...held].map((key) => MOVES[key] ?? [0, 0]).reduce(([ax, ay], [bx, by]) => [ax + bx, ay + by], [0, 0]);
  const others = Object.entries(match.next.players).filter(([id]) => id !== me.id).map(([, player]) => player);
  const distance = (player) => Math.hypot(player.x - own.x, player.y - own.y);
  const aim = pointer ?? others.sort((a, b) => distance(a) - distance(b))[0];
  send("match.input", {
    move_x: Math.sign(x), move_y: Math.sign(y), shoot: held.has(" ") || held.has("pointer"),
    ...(aim && { aim_x: aim.x, aim_y: aim.y }),
  });
}
setInterval(() => { if (held.has(" ") || held.has("pointer")) input(); }, 100);

function press(key, down) {
  if (down === held.has(key)) return;
  if (down) held.add(key); else held.delete(key);
  input();
}

const keyOf = ({ key }) => (key.length === 1 ? key.toLowerCase() : key);
addEventListener("keydown", (event) => {
  const key = keyOf(event);
  const elsewhere = event.target.closest("input, button, summary, #chat");
  if (!match.id || elsewhere || event.ctrlKey || event.metaKey || event.altKey || !(key in MOVES || key === " ")) return;
  event.preventDefault();
  if (key === " ") pointer = null; // the keyboard aims at the nearest opponent
  press(key, true);
});
addEventListener("keyup", (event) => press(keyOf(event), false));
addEventListener("blur", () => { held.clear(); input(); });

const arena = $("arena");
function aimAt({ offsetX, offsetY }) {
  pointer = { x: (offsetX / arena.clientWidth) * arena.width, y: (offsetY / arena.clientHeight) * arena.height };
}
arena.addEventListener("pointerdown", (event) => { arena.setPointerCapture(event.pointerId); aimAt(event); press("pointer", true); });
arena.addEventListener("pointermove", (event) => { if (held.has("pointer")) aimAt(event); });
for (const up of ["pointerup", "pointercancel"]) arena.addEventListener(up, () => press("pointer", false));
for (const pad of $("pad").children) {
  pad.addEventListener("pointerdown", () => { if (pad.dataset.key === " ") pointer = null; press(pad.dataset.key, true); });
  for (const up of ["pointerup", "pointercancel", "pointerleave"]) pad.addEventListener(up, () => press(pad.dataset.key, false));
}

// Draws between the last two states, which come ten times a second.
function draw(now) {
  requestAnimationFrame(draw);
  const ctx = arena.getContext("2d");
  ctx.clearRect(0, 0, arena.width, arena.height);
  const { last, next } = match;
  if (!next?.players) return;
  if (arena.width !== next.width) Object.assign(arena, { width: next.width, height: next.height });
  const part = Math.min(1, (now - match.at) / 100);
  const between = (a, b) => a + (b - a) * part;
  for (const shot of next.shots ?? []) {
    ctx.fillStyle = "#ffd166";
    ctx.beginPath();
    ctx.arc(shot.x, shot.y, 4, 0, 7);
    ctx.fill();
  }
  for (const [id, player] of Object.entries(next.players)) {
    const before = last.players?.[id] ?? player;
    const jump = Math.hypot(player.x - before.x, player.y - before.y) > 60; // hit, and put elsewhere
    const [x, y] = jump ? [player.x, player.y] : [between(before.x, player.x), between(before.y, player.y)];
    ctx.fillStyle = id === me.id ? "#7cc4ff" : "#ff8fa3";
    ctx.beginPath();
    ctx.arc(x, y, 22, 0, 7);
    ctx.fill();
    ctx.strokeStyle = "#fff";
    ctx.lineWidth = 4;
    ctx.beginPath();
    ctx.moveTo(x, y);
    ctx.lineTo(x + 30 * Math.cos(player.aim), y + 30 * Math.sin(player.aim));
    ctx.stroke();
    ctx.fillStyle = "#fff";
    ctx.font = "18px system-ui";
    ctx.textAlign = "center";
    ctx.fillText(`${called(id)}: ${player.score}`, Math.min(Math.max(x, 60), arena.width - 60), Math.max(y - 30, 20), 120);
  }
}

function showScores({ players = {}, time_left }) {
  const scores = Object.entries(players).map(([id, { score }]) => `${called(id)} ${score}`);
  show("scores", `${scores.join(" · ")} · ${time_left} s left`);
}

// For where there is no time to wait for the name.
function called(id) {
  if (id === me.id) return "you";
  if (!names.has(id)) nameOf(id);
  return names.get(id) ?? id.slice(-6);
}

// ---- The page itself -----------------------------------------------------------------------------------------------

function show(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function note(text) {
  const line = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString();
  line.append(time, text);
  $("events").prepend(line);
  while ($("events").children.length > 50) $("events").lastChild.remove();
}

function button(text, action) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = text;
  element.addEventListener("click", () => Promise.resolve(action()).catch((error) => note(error.message)));
  return element;
}

function signedOut(why) {
  Object.assign(me, { id: null, access: null, refresh: null });
  match.id = null;
  show("me", "nobody yet");
  show("node", "–");
  show("status", why);
  $("inside").hidden = true;
  $("door").hidden = false;
}

$("sign-in").addEventListener("click", async () => {
  try {
    connection.url = HOME;
    await signIn();
    $("door").hidden = true;
    $("inside").hidden = false;
    open(HOME);
  } catch (error) {
    show("status", `Not signed in: ${error.message}`);
  }
});
$("play").addEventListener("click", play);
$("cancel").addEventListener("click", cancel);
$("leave").addEventListener("click", async () => { await request("match.leave").catch(() => {}); end("You left the match."); });
requestAnimationFrame(draw);
