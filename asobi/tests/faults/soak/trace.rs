//! What became of each match and each ticket, change by change: triggers in the cluster's database write it down, so that
//! nothing that lasts for a moment only is missed.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgPool;
use uuid::Uuid;

/// Rows of one match or ticket change under its lock, so their numbers are in the order of the changes.
const TRIGGERS: &str = "
CREATE TABLE soak_matches (
    n bigint GENERATED ALWAYS AS IDENTITY, id uuid, state text, epoch bigint, host text, incarnation bigint
);
CREATE FUNCTION soak_match() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO soak_matches (id, state, epoch, host, incarnation)
    VALUES (NEW.id, NEW.state, NEW.epoch, NEW.host_node, NEW.host_incarnation);
    RETURN NULL;
END $$;
CREATE TRIGGER soak AFTER INSERT OR UPDATE ON matches FOR EACH ROW EXECUTE FUNCTION soak_match();
CREATE TABLE soak_tickets (n bigint GENERATED ALWAYS AS IDENTITY, id uuid, state text, match_id uuid);
CREATE FUNCTION soak_ticket() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO soak_tickets (id, state, match_id) VALUES (NEW.id, NEW.state, NEW.match_id);
    RETURN NULL;
END $$;
CREATE TRIGGER soak AFTER INSERT OR UPDATE ON tickets FOR EACH ROW EXECUTE FUNCTION soak_ticket();
CREATE TABLE soak_checkpoints (
    n bigint GENERATED ALWAYS AS IDENTITY, id uuid, epoch bigint, host text, writer text, state boolean
);
CREATE FUNCTION soak_checkpoint() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO soak_checkpoints (id, epoch, host, writer, state)
    SELECT NEW.match_id, NEW.epoch, host_node, current_setting('application_name'),
        TG_OP = 'UPDATE' AND NEW.body IS DISTINCT FROM OLD.body
    FROM matches WHERE id = NEW.match_id;
    RETURN NULL;
END $$;
CREATE TRIGGER soak AFTER INSERT OR UPDATE ON match_checkpoints FOR EACH ROW EXECUTE FUNCTION soak_checkpoint();
";

/// A match's row, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct Moment {
    id: Uuid,
    state: String,
    epoch: i64,
    host: String,
    incarnation: i64,
}

/// A match's checkpoint when it was written, by which node, and whose the match was then.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct Written {
    id: Uuid,
    epoch: i64,
    host: String,
    /// What the node calls itself to PostgreSQL.
    writer: String,
    /// What is in it is another state than before.
    state: bool,
}

pub async fn begin(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::raw_sql(TRIGGERS).execute(pool).await?;
    Ok(())
}

/// Everything that must not have been, one line each.
pub async fn mistakes(pool: &PgPool) -> anyhow::Result<Vec<String>> {
    let matches: Vec<Moment> =
        sqlx::query_as("SELECT id, state, epoch, host, incarnation FROM soak_matches ORDER BY n")
            .fetch_all(pool)
            .await?;
    let tickets: Vec<(Uuid, String, Option<Uuid>)> =
        sqlx::query_as("SELECT id, state, match_id FROM soak_tickets ORDER BY n").fetch_all(pool).await?;
    let checkpoints: Vec<Written> =
        sqlx::query_as("SELECT id, epoch, host, writer, state FROM soak_checkpoints ORDER BY n")
            .fetch_all(pool)
            .await?;
    let mut wrong = of_matches(&matches);
    let ran = matches.iter().filter(|moment| moment.state == "running").map(|moment| moment.id).collect();
    wrong.extend(of_tickets(&tickets, &ran));
    wrong.extend(of_checkpoints(&checkpoints));
    Ok(wrong)
}

fn is_open(state: &str) -> bool {
    matches!(state, "allocating" | "running")
}

/// Each epoch of a match belongs to one process, epochs never go back, and what has ended stays so.
fn of_matches(moments: &[Moment]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut last = BTreeMap::<Uuid, &Moment>::new();
    for now in moments {
        let Some(before) = last.insert(now.id, now) else { continue };
        let same_process = (&before.host, before.incarnation) == (&now.host, now.incarnation);
        let why = if now.epoch < before.epoch {
            "its epoch went back"
        } else if now.epoch == before.epoch && !same_process {
            "two processes had it under one epoch"
        } else if !is_open(&before.state) && (now.state != before.state || now.epoch != before.epoch) {
            "it changed after its end"
        } else if now.epoch == before.epoch && before.state == "running" && now.state == "allocating" {
            "it was given away without a new epoch"
        } else {
            continue;
        };
        wrong.push(format!("match {}: {why}: {before:?}, then {now:?}", now.id));
    }
    wrong
}

/// A ticket ends once, in one way. It waits again if its match came to nothing before it ran.
fn of_tickets(moments: &[(Uuid, String, Option<Uuid>)], ran: &BTreeSet<Uuid>) -> Vec<String> {
    let mut ended = BTreeMap::<Uuid, (&str, Option<Uuid>)>::new();
    let mut wrong = Vec::new();
    for (id, state, match_id) in moments {
        if let Some(before) = ended.get(id).filter(|before| **before != (state.as_str(), *match_id)) {
            wrong.push(format!("ticket {id} was {before:?}, then {state} with {match_id:?}"));
        }
        if state == "pending" || match_id.is_some_and(|match_id| !ran.contains(&match_id)) {
            ended.remove(id);
        } else {
            ended.insert(*id, (state, *match_id));
        }
    }
    wrong
}

/// Nothing is written for an epoch after something was for a later one, and no state but by the host whose match it is.
fn of_checkpoints(moments: &[Written]) -> Vec<String> {
    let mut last = BTreeMap::<Uuid, i64>::new();
    let mut wrong = Vec::new();
    for Written { id, epoch, host, writer, state } in moments {
        if let Some(before) = last.insert(*id, *epoch).filter(|before| before > epoch) {
            wrong.push(format!("match {id} was written for epoch {epoch} after {before}"));
        }
        if *state && writer.strip_prefix("asobi/") != Some(host) {
            wrong.push(format!("a state of match {id}, which {host} ran under epoch {epoch}, was written by {writer}"));
        }
    }
    if !moments.iter().any(|written| written.state) {
        wrong.push("no host has written a state".to_owned());
    }
    wrong
}

/// Which process said in its log that it runs a match under an epoch: more than one for the same is a mistake.
pub fn of_log(log: &str) -> Vec<String> {
    let mut runs = BTreeMap::<(&str, &str), BTreeSet<&str>>::new();
    for line in log.lines().filter(|line| line.contains("A match runs.")) {
        let value = |key: &str| line.split_once(key)?.1.split([' ', ',', '"']).find(|word| !word.is_empty());
        // Each line begins with the node that wrote it.
        let node = line.split_whitespace().next();
        if let (Some(id), Some(epoch), Some(node)) = (value("match_id="), value("epoch="), node) {
            runs.entry((id, epoch)).or_default().insert(node);
        }
    }
    let twice = runs.iter().filter(|(_, nodes)| nodes.len() > 1);
    let mut wrong: Vec<String> =
        twice.map(|((id, epoch), nodes)| format!("match {id} ran at {nodes:?} under epoch {epoch}")).collect();
    if runs.is_empty() {
        wrong.push("no host has said that it runs a match".to_owned());
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn moment(state: &str, epoch: i64, host: &str) -> Moment {
        Moment { id: ID, state: state.into(), epoch, host: host.into(), incarnation: 1 }
    }

    #[test]
    fn a_match_that_is_handed_on_properly_is_right() {
        let (a, b) = (|state| moment(state, 1, "a"), |state| moment(state, 2, "b"));
        assert!(of_matches(&[a("allocating"), a("running"), b("allocating"), b("running"), b("finished")]).is_empty());
    }

    #[test]
    fn a_match_of_two_hosts_is_found() {
        let first = moment("running", 2, "a");
        for (second, why) in [
            (moment("running", 1, "a"), "its epoch went back"),
            (moment("running", 2, "b"), "two processes had it under one epoch"),
            (Moment { incarnation: 2, ..first.clone() }, "two processes had it under one epoch"),
            (moment("allocating", 2, "a"), "without a new epoch"),
        ] {
            let wrong = of_matches(&[first.clone(), second]);
            assert!(wrong.len() == 1 && wrong[0].contains(why), "{wrong:?}");
        }
        let ended = moment("finished", 2, "a");
        assert_eq!(of_matches(&[first, ended.clone(), moment("running", 3, "b")]).len(), 1);
        assert!(of_matches(&[ended.clone(), ended]).is_empty(), "its players are told afterwards");
    }

    #[test]
    fn a_ticket_that_ends_twice_is_found() {
        let moment = |state: &str, match_id| (ID, state.to_owned(), match_id);
        let of_tickets = |moments: &[_]| of_tickets(moments, &BTreeSet::from([OTHER])).len();
        let matched = moment("matched", Some(OTHER));
        assert_eq!(of_tickets(&[moment("pending", None), matched.clone(), matched.clone()]), 0);
        assert_eq!(of_tickets(&[matched.clone(), moment("cancelled", None)]), 1);
        assert_eq!(of_tickets(&[matched.clone(), moment("pending", None)]), 1);
        assert_eq!(of_tickets(&[matched.clone(), moment("matched", Some(ID))]), 1);
        assert_eq!(of_tickets(&[moment("expired", None), moment("pending", None)]), 1);
        let never_ran = moment("matched", Some(ID));
        assert_eq!(of_tickets(&[never_ran, moment("pending", None), matched]), 0);
    }

    #[test]
    fn a_state_of_an_old_epoch_or_another_host_is_found() {
        let by = |id, epoch, host: &str, writer: &str| {
            let (host, writer) = (host.to_owned(), format!("asobi/{writer}"));
            Written { id, epoch, host, writer, state: true }
        };
        let [a, b] = [by(ID, 1, "a", "a"), by(ID, 2, "b", "b")];
        let taken = Written { state: false, ..by(ID, 2, "b", "matchmaker") };
        assert!(of_checkpoints(&[a.clone(), a.clone(), taken, b.clone(), by(OTHER, 1, "a", "a")]).is_empty());
        assert_eq!(of_checkpoints(&[b.clone(), a]).len(), 1, "an epoch that was over");
        assert_eq!(of_checkpoints(&[b, by(ID, 2, "b", "a")]).len(), 1, "a host that was replaced");
        assert_eq!(of_checkpoints(&[]).len(), 1);
    }

    #[test]
    fn a_log_of_two_hosts_is_read() {
        let line = |node, epoch| {
            format!("{node} | 12:00 INFO A match runs. game.match_id={ID} match.epoch={epoch} game.mode=\"x\"\n")
        };
        assert!(of_log(&(line("a", 1) + &line("b", 2))).is_empty());
        assert_eq!(
            of_log(&(line("a", 1) + &line("b", 1))),
            [format!("match {ID} ran at {{\"a\", \"b\"}} under epoch 1")]
        );
        assert_eq!(of_log("nothing").len(), 1);
    }
}
