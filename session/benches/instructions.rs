//! How many instructions a frame costs where it comes in, and a message where it goes out to many. `scripts/bench-instructions`

#![expect(clippy::disallowed_methods, reason = "the harness's main ends its process itself")]

use std::hint::black_box;

use asobi_proto::frame::{Incoming, push_raw};
use asobi_session::{frame::Frame, measured::Room};
use gungraun::prelude::*;

const MEMBERS: u64 = 1_000;

const HEARTBEAT: &str = r#"{"type":"session.heartbeat","cid":"h1","payload":{}}"#;
const SAY: &str = r#"{"type":"chat.send","cid":"c17","payload":{"channel_id":"global:lobby","content":"Who is in for a round of \"capture\"? We are two, and need two more. \u00a1Vamos!"}}"#;
const INPUT: &str = r#"{"type":"match.input","payload":{"seq":1042,"move":{"x":0.70710678,"y":-0.70710678},"fire":true,"aim":[12.5,88.25],"held":["dash","shield"]}}"#;

#[library_benchmark]
#[bench::heartbeat(HEARTBEAT)]
#[bench::chat_send(SAY)]
#[bench::match_input(INPUT)]
fn parse(text: &'static str) -> Option<Incoming<'static>> {
    black_box(Incoming::parse(black_box(text)).ok())
}

fn lobby() -> (Room, Frame) {
    let mut room = Room::of(MEMBERS);
    let frame =
        || Frame::from(push_raw("chat.message", r#"{"channel_id":"global:lobby","seq":2,"content":"Who is in?"}"#));
    room.say(frame());
    assert_eq!(room.heard() as u64, MEMBERS, "each member has heard it");
    (room, frame())
}

#[library_benchmark]
#[bench::thousand(lobby())]
fn fan_out((mut room, frame): (Room, Frame)) -> Room {
    room.say(black_box(frame));
    black_box(room)
}

library_benchmark_group!(name = frames, benchmarks = [parse, fan_out]);
main!(library_benchmark_groups = frames);
