//! Every advisory lock key of the cluster, so that no two purposes share one. Session locks and transaction locks live
//! in the same spaces; the one-bigint space is for singletons, the two-int4 space for (purpose, hash).

/// Session lock: the leading matchmaker.
pub const MATCHMAKER_LEADER: i64 = 0x6173_6f62_0001;
/// Transaction lock: whoever makes or retires signing keys.
pub const SIGNING_KEYS: i64 = 0x6173_6f62_0002;
/// Transaction lock: whoever sweeps the sessions of dead nodes.
pub const SESSION_SWEEP: i64 = 0x6173_6f62_0003;
/// Session lock: whoever makes the template database of the tests.
pub const TEST_TEMPLATE: i64 = 0x6173_6f62_0004;
/// Transaction lock: whoever sweeps parties that nobody is connected of, and invitations that are over.
pub const PARTY_SWEEP: i64 = 0x6173_6f62_0007;
/// Transaction lock: whoever tells parties which of their members came, went or play.
pub const PARTY_LOOK: i64 = 0x6173_6f62_0008;
/// Transaction lock: whoever drops what is kept no longer.
pub const MAINTENANCE: i64 = 0x6173_6f62_0005;
/// Transaction lock: whoever makes the partitions of days to come.
pub const CHAT_DAYS: i64 = 0x6173_6f62_0006;
/// Transaction lock: whoever applies the messages of matches, one after the other.
pub const EFFECT_CHAT: i64 = 0x6173_6f62_0009;
/// Session lock: whoever migrates the schema.
pub const MIGRATE: i64 = 0x6173_6f62_0010;
/// Session lock, shared: whoever tries whether sessions keep their locks.
pub const DOCTOR: i64 = 0x6173_6f62_0011;
/// Transaction lock: whoever rotates the cluster's key.
pub const CLUSTER_KEYS: i64 = 0x6173_6f62_0021;
/// Transaction lock: whoever gives a token its name.
pub const TOKEN_NAMES: i64 = 0x6173_6f62_0022;
/// Transaction lock: whoever forgets tokens, keys and requests that are over.
pub const ACCESS_SWEEP: i64 = 0x6173_6f62_0023;

/// Transaction lock: whoever sweeps the entries of periods and boards that are gone.
pub const BOARD_SWEEP: i64 = 0x6173_6f62_0b01;

/// First key of a two-key transaction lock; the second is a hash of what is locked.
pub const PLAYER_PRESENCE: i32 = 1;
/// Quick play of one mode: simultaneous callers land in one match.
pub const QUICK_PLAY: i32 = 2;
/// Session lock, shared: an incarnation of a node whose heartbeat's connection is open. The second key is [`of_incarnation`].
pub const NODE_ALIVE: i32 = 3;

/// The second key of [`NODE_ALIVE`]: the low half of the number. Two live incarnations that share it are four thousand million starts apart.
#[must_use]
pub fn of_incarnation(incarnation: i64) -> i32 {
    incarnation as i32
}
