//! Channel ids: `scheme:name`. Who may use a channel follows from its scheme.

use uuid::Uuid;

/// Bounds the column, too.
const ID_BYTES: usize = 200;

/// A channel id that can be understood.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ChannelId {
    /// Declared by the operator; any player.
    Global(String),
    /// The two players, in sorted order; twice the same one for notes to oneself.
    Dm(Uuid, Uuid),
    /// The players of a match.
    Match(Uuid),
    /// The members of a group.
    Room(Uuid),
    /// Of a scheme whose members this release does not know: worlds.
    Closed,
}

impl ChannelId {
    /// None: `invalid_channel_id`.
    #[must_use]
    pub fn parse(id: &str) -> Option<Self> {
        let (scheme, name) = id.split_once(':')?;
        if name.is_empty() || id.len() > ID_BYTES || id.contains('\0') {
            return None;
        }
        match scheme {
            "global" => Some(Self::Global(name.to_owned())),
            "dm" => {
                let (a, b) = name.split_once(':')?;
                let (a, b) = (canonical(a)?, canonical(b)?);
                (a <= b).then_some(Self::Dm(a, b))
            }
            "match" => Some(canonical(name).map_or(Self::Closed, Self::Match)),
            "room" => Some(canonical(name).map_or(Self::Closed, Self::Room)),
            "world" | "zone" | "prox" => Some(Self::Closed),
            _ => None,
        }
    }

    /// The channel of two players.
    #[must_use]
    pub fn dm(a: Uuid, b: Uuid) -> String {
        format!("dm:{}:{}", a.min(b), a.max(b))
    }

    /// The channel of a group.
    #[must_use]
    pub fn room(group: Uuid) -> String {
        format!("room:{group}")
    }

    /// `channel_type` in histories.
    #[must_use]
    pub fn scheme(id: &str) -> &str {
        id.split_once(':').map_or("", |(scheme, _)| scheme)
    }
}

/// One spelling per id, or two channels would be one.
fn canonical(text: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(text).ok()?;
    (id.hyphenated().to_string() == text).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "01a2032f-ecc7-70e7-855c-218110e89759";
    const B: &str = "01a2032f-ed4a-7d55-8e8b-05bada905ae6";

    #[test]
    fn schemes_are_told_apart() {
        let (a, b) = (Uuid::try_parse(A).unwrap(), Uuid::try_parse(B).unwrap());
        assert_eq!(ChannelId::parse("global:lobby"), Some(ChannelId::Global("lobby".into())));
        assert_eq!(ChannelId::parse(&format!("dm:{A}:{B}")), Some(ChannelId::Dm(a, b)));
        assert_eq!(ChannelId::parse(&format!("match:{A}")), Some(ChannelId::Match(a)));
        assert_eq!(ChannelId::parse(&ChannelId::room(a)), Some(ChannelId::Room(a)));
        assert_eq!(ChannelId::parse("room:nope"), Some(ChannelId::Closed));
        assert_eq!(ChannelId::dm(b, a), format!("dm:{A}:{B}"));
        assert_eq!(ChannelId::parse(&ChannelId::dm(a, a)), Some(ChannelId::Dm(a, a)), "notes to oneself");
    }

    #[test]
    fn what_is_no_channel() {
        let long = format!("global:{}", "x".repeat(200));
        let upper = format!("dm:{}:{B}", A.to_uppercase());
        for id in ["foo", "", ":", "global:", "nope:x", &format!("dm:{B}:{A}"), "dm:x:y", &upper, &long, "global:a\0b"]
        {
            assert_eq!(ChannelId::parse(id), None, "{id:?}");
        }
    }
}
