//! `asobi ctl group`: groups as operators look at and change them, members or not.

use asobi_cluster::Role;
use asobi_proto::social_v1::{
    AssignRoleRequest, DeleteGroupRequest, ExpelMemberRequest, FindGroupsRequest, Group, GroupMember, GroupRole,
    GroupSummary, InspectGroupRequest, InspectGroupResponse, group_admin_service_client::GroupAdminServiceClient,
};
use asobi_service_kit::grpc::with_deadline;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Ctl, DEADLINE,
    given::request_id,
    output,
    shown::{self, pairs, plain, time},
};

/// Groups of one answer.
const PAGE: i32 = 100;

/// Groups: look at them, delete them, and put members out
#[derive(Debug, Args)]
pub struct GroupArgs {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Groups by name
    List {
        /// What the name begins with, in any case
        name: Option<String>,
        /// How many at most
        #[arg(long, short = 'n', default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// One group with its members, by role, then by who joined first
    Show { group: Uuid },
    /// End a group: its members are put out, its invitations and announcements go with it
    Delete { group: Uuid },
    /// Put a member out; an owner's place goes to the highest and longest member
    Expel { group: Uuid, player: Uuid },
    /// Give a member a role; a new owner makes the former one an admin
    Role { group: Uuid, player: Uuid, role: RoleName },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    Owner,
    Admin,
    Moderator,
    Member,
}

/// Asks the social services until one answers. Mutations have a request id, so that asking another one does nothing twice.
macro_rules! ask {
    ($ctl:expr, $method:ident, $request:expr) => {{
        let request = $request;
        $ctl.ask(Some(Role::Social), async |channel| {
            GroupAdminServiceClient::new(channel).$method(with_deadline(request.clone(), DEADLINE)).await
        })
        .await
    }};
}

pub async fn run(args: &GroupArgs, ctl: &Ctl) -> anyhow::Result<()> {
    let request_id = request_id();
    match &args.order {
        Order::List { name, limit } => list(ctl, name.as_deref().unwrap_or_default(), *limit as usize).await,
        Order::Show { group } => {
            show(ctl, &ask!(ctl, inspect_group, InspectGroupRequest { group_id: group.to_string() })?);
            Ok(())
        }
        Order::Delete { group } => {
            ask!(ctl, delete_group, DeleteGroupRequest { request_id, group_id: group.to_string() })?;
            said(ctl, &format!("{group} is deleted"), &json!({"group_id": group, "deleted": true}));
            Ok(())
        }
        Order::Expel { group, player } => {
            let (group_id, player_id) = (group.to_string(), player.to_string());
            ask!(ctl, expel_member, ExpelMemberRequest { request_id, group_id, player_id })?;
            let answer = json!({"group_id": group, "player_id": player, "expelled": true});
            said(ctl, &format!("{player} is out of {group}"), &answer);
            Ok(())
        }
        Order::Role { group, player, role } => {
            let role = match role {
                RoleName::Owner => GroupRole::Owner,
                RoleName::Admin => GroupRole::Admin,
                RoleName::Moderator => GroupRole::Moderator,
                RoleName::Member => GroupRole::Member,
            };
            let (group_id, player_id) = (group.to_string(), player.to_string());
            let request = AssignRoleRequest { request_id, group_id, player_id, role: role.into() };
            let member = ask!(ctl, assign_role, request)?.member.unwrap_or_default();
            said(ctl, &format!("{player} is {} of {group}", role_name(member.role())), &member_object(&member));
            Ok(())
        }
    }
}

fn said(ctl: &Ctl, what: &str, answer: &Value) {
    if ctl.json {
        output::json(answer);
    } else {
        output::line(what);
    }
}

async fn list(ctl: &Ctl, name: &str, limit: usize) -> anyhow::Result<()> {
    let (mut groups, mut page_token) = (Vec::new(), String::new());
    while groups.len() < limit {
        let request = FindGroupsRequest { query: name.to_owned(), page_size: PAGE, page_token };
        let page = ask!(ctl, find_groups, request)?;
        groups.extend(page.groups);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    groups.truncate(limit);
    if ctl.json {
        output::json(&groups.iter().map(summary).collect());
    } else {
        output::line(&table(&groups));
    }
    Ok(())
}

fn table(groups: &[GroupSummary]) -> String {
    let rows: Vec<_> = groups
        .iter()
        .map(|listed| {
            let group = listed.group.clone().unwrap_or_default();
            [
                group.id,
                format!("{}/{}", listed.member_count, group.max_members),
                if group.open { "yes" } else { "no" }.to_owned(),
                time(group.inserted_at.as_ref()),
                plain(&group.name),
            ]
        })
        .collect();
    output::table(["group", "members", "open", "since", "name"], &rows)
}

fn show(ctl: &Ctl, found: &InspectGroupResponse) {
    let group = found.group.clone().unwrap_or_default();
    if ctl.json {
        let mut shown = object(&group);
        shown["members"] = found.members.iter().map(member_object).collect();
        return output::json(&shown);
    }
    output::line(&pairs(&[
        ("group", group.id.clone()),
        ("name", plain(&group.name)),
        ("description", plain(group.description.as_deref().unwrap_or_default())),
        ("open", if group.open { "yes" } else { "no" }.to_owned()),
        ("members", format!("{}/{}", found.members.len(), group.max_members)),
        ("creator", group.creator_id.clone()),
        ("since", time(group.inserted_at.as_ref())),
    ]));
    let row = |member: &GroupMember| {
        [member.player_id.clone(), role_name(member.role()).to_owned(), time(member.joined_at.as_ref())]
    };
    let rows: Vec<_> = found.members.iter().map(row).collect();
    output::line(&format!("\n{}", output::table(["player", "role", "joined"], &rows)));
}

fn role_name(role: GroupRole) -> &'static str {
    match role {
        GroupRole::Owner => "owner",
        GroupRole::Admin => "admin",
        GroupRole::Moderator => "moderator",
        GroupRole::Member | GroupRole::Unspecified => "member",
    }
}

fn object(group: &Group) -> Value {
    json!({
        "group_id": group.id,
        "name": group.name,
        "description": group.description,
        "max_members": group.max_members,
        "open": group.open,
        "creator_id": shown::text(&group.creator_id),
        "metadata": shown::json(&group.metadata_json),
        "created_at": shown::when(group.inserted_at),
        "updated_at": shown::when(group.updated_at),
    })
}

fn summary(listed: &GroupSummary) -> Value {
    let mut shown = object(&listed.group.clone().unwrap_or_default());
    shown["member_count"] = listed.member_count.into();
    shown
}

fn member_object(member: &GroupMember) -> Value {
    json!({
        "group_id": member.group_id,
        "player_id": member.player_id,
        "role": role_name(member.role()),
        "joined_at": shown::when(member.joined_at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_a_table_and_their_names_no_orders_to_a_terminal() {
        let inserted_at = Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 });
        let group = Group {
            id: "1".into(),
            name: "The \x1b[2JOwls".into(),
            max_members: 50,
            open: true,
            inserted_at,
            ..Group::default()
        };
        assert_eq!(
            table(&[GroupSummary { group: Some(group), member_count: 3 }]),
            "GROUP  MEMBERS  OPEN  SINCE                 NAME\n\
             1      3/50     yes   2027-01-15T08:00:00Z  The \u{fffd}[2JOwls"
        );
    }
}
