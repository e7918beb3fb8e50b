//! Groups as they cross the wire: what is asked, checked; what is answered.

use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        Announcement as WireAnnouncement, CreateGroupRequest, Group as WireGroup, GroupInvite,
        GroupMember as WireMember, GroupRole as WireRole, GroupSummary, Membership, UpdateGroupRequest,
    },
};
use asobi_service_kit::grpc::status;
use asobi_store::groups::{
    Group, GroupChanges, GroupRole, Listed, ListedMembership, Member, NewGroup, PageOfGroups,
    announcements::Announcement, invites::Invite,
};
use tonic::Status;
use uuid::Uuid;

use crate::wire::{from_token, json_object, page_size, timestamp, to_token};

const NAME_CHARS: std::ops::RangeInclusive<usize> = 2..=64;
const DESCRIPTION_CHARS: usize = 1_000;
const METADATA_BYTES: usize = 16 * 1024;
/// Of a group's members: the default and the most.
pub(super) const MEMBERS: (i32, i32) = (50, 1_000);

pub(super) fn name(text: &str) -> Result<&str, Status> {
    let fits = NAME_CHARS.contains(&text.chars().count()) && !text.contains('\0');
    if fits { Ok(text) } else { Err(status(ErrorCode::VALIDATION_FAILED, "a group's name has 2 to 64 characters")) }
}

/// An empty one is none.
pub(super) fn description(text: Option<String>) -> Result<Option<String>, Status> {
    match text {
        Some(text) if text.chars().count() > DESCRIPTION_CHARS || text.contains('\0') => {
            Err(status(ErrorCode::VALIDATION_FAILED, "a group's description has at most 1000 characters"))
        }
        text => Ok(text.filter(|text| !text.is_empty())),
    }
}

pub(super) fn max_members(asked: i32) -> Result<i32, Status> {
    if (1..=MEMBERS.1).contains(&asked) {
        return Ok(asked);
    }
    Err(status(ErrorCode::VALIDATION_FAILED, "max_members must be from 1 to 1000"))
}

pub(super) fn new_group(request: CreateGroupRequest) -> Result<NewGroup, Status> {
    let max = if request.max_members == 0 { MEMBERS.0 } else { request.max_members };
    Ok(NewGroup {
        name: name(&request.name)?.to_owned(),
        description: description(request.description)?,
        max_members: max_members(max)?,
        open: request.open,
        metadata: json_object(&request.metadata_json, "metadata_json", METADATA_BYTES)?,
    })
}

pub(super) fn changes(request: UpdateGroupRequest) -> Result<GroupChanges, Status> {
    let metadata = request.metadata_json.map(|text| json_object(&text, "metadata_json", METADATA_BYTES));
    Ok(GroupChanges {
        name: request.name.map(|text| name(&text).map(ToOwned::to_owned)).transpose()?,
        description: request.description.map(|text| description(Some(text))).transpose()?,
        max_members: request.max_members.map(max_members).transpose()?,
        open: request.open,
        metadata: metadata.transpose()?,
    })
}

pub(super) fn wire(group: Group) -> WireGroup {
    WireGroup {
        id: group.id.to_string(),
        name: group.name,
        description: group.description,
        max_members: group.max_members,
        open: group.open,
        creator_id: group.creator_id.map(|id| id.to_string()).unwrap_or_default(),
        metadata_json: group.metadata.to_string(),
        inserted_at: timestamp(group.inserted_at),
        updated_at: timestamp(group.updated_at),
    }
}

pub(super) fn wire_member(member: Member) -> WireMember {
    WireMember {
        id: member.id.to_string(),
        group_id: member.group_id.to_string(),
        player_id: member.player_id.to_string(),
        role: wire_role(member.role).into(),
        joined_at: timestamp(member.joined_at),
    }
}

pub(super) fn known_role(role: WireRole) -> Result<GroupRole, Status> {
    match role {
        WireRole::Unspecified => Err(status(ErrorCode::SOCIAL_INVALID_ROLE, "there is no such role")),
        WireRole::Owner => Ok(GroupRole::Owner),
        WireRole::Admin => Ok(GroupRole::Admin),
        WireRole::Moderator => Ok(GroupRole::Moderator),
        WireRole::Member => Ok(GroupRole::Member),
    }
}

pub(super) fn wire_role(role: GroupRole) -> WireRole {
    match role {
        GroupRole::Owner => WireRole::Owner,
        GroupRole::Admin => WireRole::Admin,
        GroupRole::Moderator => WireRole::Moderator,
        GroupRole::Member => WireRole::Member,
    }
}

pub(super) fn wire_invite(invite: Invite) -> GroupInvite {
    GroupInvite {
        group_id: invite.group_id.to_string(),
        group_name: invite.group_name,
        player_id: invite.player_id.to_string(),
        invited_by: invite.invited_by.to_string(),
        invited_at: timestamp(invite.invited_at),
        expires_at: timestamp(invite.expires_at),
    }
}

pub(super) fn wire_announcement(announcement: Announcement) -> WireAnnouncement {
    WireAnnouncement {
        id: announcement.id.to_string(),
        group_id: announcement.group_id.to_string(),
        author_id: announcement.author_id.map(|id| id.to_string()).unwrap_or_default(),
        subject: announcement.subject,
        content: announcement.content,
        announced_at: timestamp(announcement.announced_at),
    }
}

/// A page of the groups by name: what is asked of the rows, one more than the page holds.
pub(super) fn page(query: String, open: Option<bool>, size: i32, token: &str) -> Result<PageOfGroups, Status> {
    if query.chars().count() > *NAME_CHARS.end() || query.contains('\0') {
        return Err(status(ErrorCode::VALIDATION_FAILED, "query has at most 64 characters"));
    }
    let after = from_token(token)?.map(place).transpose()?;
    Ok(PageOfGroups { prefix: query, open, after, limit: i64::from(page_size(size)) + 1 })
}

/// Where a page begins: an id and the name it is sorted by.
fn place(bytes: Vec<u8>) -> Result<(String, Uuid), Status> {
    let read = bytes.split_first_chunk::<16>().map(|(id, name)| (Uuid::from_bytes(*id), name));
    let read = read.and_then(|(id, name)| Some((std::str::from_utf8(name).ok()?, id)));
    let (name, id) = read.ok_or_else(crate::wire::bad_token)?;
    Ok((name.to_owned(), id))
}

/// The page and the token of the next one.
pub(super) fn summaries(mut rows: Vec<Listed>, limit: i64) -> (Vec<GroupSummary>, String) {
    let most = usize::try_from(limit - 1).unwrap_or_default();
    let more = rows.len() > most;
    rows.truncate(most);
    let next = rows.last().filter(|_| more).map(|last| {
        let place = [last.group.id.as_bytes().as_slice(), last.sorted_by.as_bytes()].concat();
        to_token(&place)
    });
    let rows = rows.into_iter().map(|row| GroupSummary {
        group: Some(wire(row.group)),
        member_count: i32::try_from(row.members).unwrap_or(i32::MAX),
    });
    (rows.collect(), next.unwrap_or_default())
}

pub(super) fn wire_membership(row: ListedMembership) -> Membership {
    Membership {
        group: Some(wire(row.group)),
        member_count: i32::try_from(row.members).unwrap_or(i32::MAX),
        role: wire_role(row.role).into(),
        joined_at: timestamp(row.joined_at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_goes_on_where_the_last_one_ended() {
        let token = to_token(&[Uuid::max().as_bytes().as_slice(), "süß".as_bytes()].concat());
        assert_eq!(page(String::new(), None, 0, &token).unwrap().after, Some(("süß".into(), Uuid::max())));
        assert_eq!(page(String::new(), None, 0, "").unwrap().after, None);
        for wrong in ["zz", "00", &to_token(&[0xff; 20])] {
            assert!(page(String::new(), None, 0, wrong).is_err(), "{wrong}");
        }
    }
}
