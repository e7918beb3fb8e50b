//! `asobi ctl boards`: leaderboards as operators make, look at and change them.

use asobi_cluster::Role;
use asobi_proto::social_v1::{
    Board, BoardOperator, BoardOrder, BoardSettings, CreateBoardRequest, DeleteBoardRequest, GetBoardRequest,
    LeaderboardEntry, ListBoardsRequest, ListPeriodsRequest, ListTopRequest, RemoveEntryRequest, ResetBoardRequest,
    UpdateBoardRequest, leaderboard_admin_service_client::LeaderboardAdminServiceClient,
    leaderboard_service_client::LeaderboardServiceClient,
};
use asobi_service_kit::grpc::with_deadline;
use clap::{Args, Subcommand, ValueEnum};
use prost_types::FieldMask;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Ctl, DEADLINE, given::request_id, output, shown::when};

/// Leaderboards: list, make, change and reset them, and take entries off
#[derive(Debug, Args)]
pub struct BoardsArgs {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// All boards, by their ids
    List,
    /// One board: its settings, its period and how many entries it has
    Show { board: String },
    /// Make a board
    Create {
        board: String,
        #[command(flatten)]
        settings: Given,
    },
    /// Change settings of a board. Another order ranks the entries that are there anew; another operator folds later scores only
    Update {
        board: String,
        #[command(flatten)]
        settings: Given,
    },
    /// End the board's period now; what it held stays to be read
    Reset { board: String },
    /// Delete a board with all of its periods
    Delete { board: String },
    /// The best of a board
    Top {
        board: String,
        /// How many
        #[arg(long, short = 'n', default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=100))]
        limit: i32,
        /// A period that is over, by its number
        #[arg(long)]
        period: Option<i64>,
    },
    /// Take a player off a board; they may submit again
    RemoveEntry {
        board: String,
        player: Uuid,
        /// Off a period that is over, by its number
        #[arg(long)]
        period: Option<i64>,
    },
    /// The periods that are over and kept, the latest first
    Periods { board: String },
}

/// What is not given stays, or is what a board has that nobody created: the highest first, the last score kept.
#[derive(Debug, Args)]
struct Given {
    /// Which scores are first
    #[arg(long, value_enum)]
    order: Option<OrderName>,
    /// What becomes of a player's earlier score
    #[arg(long, value_enum)]
    operator: Option<OperatorName>,
    /// When the board begins anew: a cron pattern of five fields in UTC, such as "0 0 * * MON"; "" is never
    #[arg(long, value_name = "CRON")]
    reset: Option<String>,
    /// The lowest score that is taken; "" is no bound
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
    min_score: Option<String>,
    /// The highest score that is taken; "" is no bound
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
    max_score: Option<String>,
    /// Whether clients may submit themselves
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    client_submit: Option<bool>,
    /// How many past periods are kept; "" is all
    #[arg(long, value_name = "N")]
    periods_kept: Option<String>,
    #[arg(long)]
    title: Option<String>,
    /// A JSON object
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OrderName {
    /// The highest
    High,
    /// The lowest
    Low,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OperatorName {
    /// The better one stays
    Best,
    /// The last one stays
    Last,
    /// They are added up
    Sum,
}

impl Given {
    /// The settings, and which of them were given.
    fn read(&self) -> anyhow::Result<(BoardSettings, Vec<String>)> {
        let mut fields = Vec::new();
        let mut given = |field: &str, is_given: bool| fields.extend(is_given.then(|| field.to_owned()));
        given("order", self.order.is_some());
        given("operator", self.operator.is_some());
        given("reset_schedule", self.reset.is_some());
        given("min_score", self.min_score.is_some());
        given("max_score", self.max_score.is_some());
        given("client_submit", self.client_submit.is_some());
        given("periods_kept", self.periods_kept.is_some());
        given("title", self.title.is_some());
        given("metadata_json", self.metadata.is_some());
        let order = match self.order {
            None => BoardOrder::Unspecified,
            Some(OrderName::High) => BoardOrder::High,
            Some(OrderName::Low) => BoardOrder::Low,
        };
        let operator = match self.operator {
            None => BoardOperator::Unspecified,
            Some(OperatorName::Best) => BoardOperator::Best,
            Some(OperatorName::Last) => BoardOperator::Last,
            Some(OperatorName::Sum) => BoardOperator::Sum,
        };
        let settings = BoardSettings {
            title: self.title.clone().unwrap_or_default(),
            metadata_json: self.metadata.clone().unwrap_or_default(),
            order: order.into(),
            operator: operator.into(),
            reset_schedule: self.reset.clone().unwrap_or_default(),
            min_score: number("--min-score", self.min_score.as_deref())?,
            max_score: number("--max-score", self.max_score.as_deref())?,
            client_submit: self.client_submit.unwrap_or_default(),
            periods_kept: number("--periods-kept", self.periods_kept.as_deref())?,
        };
        Ok((settings, fields))
    }
}

/// None: nothing, or no bound.
fn number<T: std::str::FromStr>(flag: &str, text: Option<&str>) -> anyhow::Result<Option<T>> {
    let parse = |text: &str| text.parse().map_err(|_| anyhow::anyhow!("{flag} {text:?} is no number, and not empty"));
    text.filter(|text| !text.is_empty()).map(parse).transpose()
}

/// Asks the social services until one answers. Mutations have a request id, so that asking another one does nothing twice.
macro_rules! ask {
    ($ctl:expr, $method:ident, $request:expr) => {
        ask!($ctl, LeaderboardAdminServiceClient, $method, $request)
    };
    ($ctl:expr, $client:ident, $method:ident, $request:expr) => {{
        let request = $request;
        $ctl.ask(Some(Role::Social), async |channel| {
            $client::new(channel).$method(with_deadline(request.clone(), DEADLINE)).await
        })
        .await
    }};
}

pub async fn run(args: &BoardsArgs, ctl: &Ctl) -> anyhow::Result<()> {
    let request_id = request_id();
    match &args.order {
        Order::List => list(ctl).await,
        Order::Show { board } => show(ctl, board).await,
        Order::Create { board, settings } => {
            let settings = Some(settings.read()?.0);
            let request = CreateBoardRequest { request_id, leaderboard_id: board.clone(), settings };
            let made = ask!(ctl, create_board, request)?.board.unwrap_or_default();
            said(ctl, board, "is there", &object(&made));
            Ok(())
        }
        Order::Update { board, settings } => {
            let (settings, paths) = settings.read()?;
            anyhow::ensure!(!paths.is_empty(), "nothing is to be changed: give a setting, see --help");
            let request = UpdateBoardRequest {
                request_id,
                leaderboard_id: board.clone(),
                settings: Some(settings),
                update_mask: Some(FieldMask { paths }),
            };
            let changed = ask!(ctl, update_board, request)?.board.unwrap_or_default();
            said(ctl, board, "is changed", &object(&changed));
            Ok(())
        }
        Order::Reset { board } => {
            let request = ResetBoardRequest { request_id, leaderboard_id: board.clone() };
            let period = ask!(ctl, reset_board, request)?.period;
            said(ctl, board, &format!("begins anew: period {period}"), &json!({"board": board, "period": period}));
            Ok(())
        }
        Order::Delete { board } => {
            let request = DeleteBoardRequest { request_id, leaderboard_id: board.clone() };
            ask!(ctl, delete_board, request)?;
            said(ctl, board, "is deleted", &json!({"board": board, "deleted": true}));
            Ok(())
        }
        Order::Top { board, limit, period } => {
            let request = ListTopRequest { leaderboard_id: board.clone(), limit: *limit, period: *period };
            top(ctl, &ask!(ctl, LeaderboardServiceClient, list_top, request)?.entries);
            Ok(())
        }
        Order::RemoveEntry { board, player, period } => {
            let player_id = player.to_string();
            let request = RemoveEntryRequest { request_id, leaderboard_id: board.clone(), player_id, period: *period };
            let entry = ask!(ctl, remove_entry, request)?.entry.unwrap_or_default();
            said(ctl, board, &format!("has {player} no more, who had {}", entry.score), &entry_object(&entry));
            Ok(())
        }
        Order::Periods { board } => periods(ctl, board).await,
    }
}

fn said(ctl: &Ctl, board: &str, what: &str, answer: &Value) {
    if ctl.json {
        output::json(answer);
    } else {
        output::line(&format!("{board} {what}"));
    }
}

async fn list(ctl: &Ctl) -> anyhow::Result<()> {
    let (mut boards, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListBoardsRequest { page_size: 1_000, page_token: page_token.clone() };
        let page = ask!(ctl, list_boards, request)?;
        boards.extend(page.boards);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if ctl.json {
        output::json(&boards.iter().map(object).collect());
    } else {
        output::line(&table(&boards));
    }
    Ok(())
}

fn table(boards: &[Board]) -> String {
    let rows: Vec<_> = boards
        .iter()
        .map(|board| {
            let settings = board.settings.clone().unwrap_or_default();
            [
                board.leaderboard_id.clone(),
                order(&settings).to_owned(),
                operator(&settings).to_owned(),
                board.period.to_string(),
                when(board.next_reset_at).unwrap_or_else(|| "-".to_owned()),
                if settings.client_submit { "yes" } else { "no" }.to_owned(),
                settings.title,
            ]
        })
        .collect();
    output::table(["board", "order", "operator", "period", "next reset", "clients", "title"], &rows)
}

async fn show(ctl: &Ctl, board: &str) -> anyhow::Result<()> {
    let answer = ask!(ctl, get_board, GetBoardRequest { leaderboard_id: board.to_owned() })?;
    let mut shown = object(&answer.board.unwrap_or_default());
    shown["entries"] = answer.entries.into();
    if ctl.json {
        output::json(&shown);
        return Ok(());
    }
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let fields = shown.as_object().into_iter().flatten();
    let rows: Vec<_> =
        fields.filter(|(_, value)| !value.is_null()).map(|(name, value)| [name.clone(), plain(value)]).collect();
    output::line(&output::table(["what", "value"], &rows));
    Ok(())
}

fn top(ctl: &Ctl, entries: &[LeaderboardEntry]) {
    if ctl.json {
        return output::json(&entries.iter().map(entry_object).collect());
    }
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| {
            let scores = [entry.score, entry.sub_score].map(|score| score.to_string());
            let [score, sub_score] = scores;
            [
                entry.rank.to_string(),
                entry.player_id.clone(),
                score,
                sub_score,
                when(entry.updated_at).unwrap_or_default(),
            ]
        })
        .collect();
    output::line(&output::table(["rank", "player", "score", "sub-score", "since"], &rows));
}

async fn periods(ctl: &Ctl, board: &str) -> anyhow::Result<()> {
    let (mut periods, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            ListPeriodsRequest { leaderboard_id: board.to_owned(), page_size: 1_000, page_token: page_token.clone() };
        let page = ask!(ctl, LeaderboardServiceClient, list_periods, request)?;
        periods.extend(page.periods);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if ctl.json {
        let object = |period: &asobi_proto::social_v1::BoardPeriod| json!({"period": period.period, "began_at": when(period.began_at), "ended_at": when(period.ended_at)});
        output::json(&periods.iter().map(object).collect());
    } else {
        let of = |at: Option<String>| at.unwrap_or_default();
        let row = |period: &asobi_proto::social_v1::BoardPeriod| {
            [period.period.to_string(), of(when(period.began_at)), of(when(period.ended_at))]
        };
        let rows: Vec<_> = periods.iter().map(row).collect();
        output::line(&output::table(["period", "began", "ended"], &rows));
    }
    Ok(())
}

fn order(settings: &BoardSettings) -> &'static str {
    if settings.order() == BoardOrder::Low { "low" } else { "high" }
}

fn operator(settings: &BoardSettings) -> &'static str {
    match settings.operator() {
        BoardOperator::Best => "best",
        BoardOperator::Sum => "sum",
        BoardOperator::Last | BoardOperator::Unspecified => "last",
    }
}

fn object(board: &Board) -> Value {
    let settings = board.settings.clone().unwrap_or_default();
    json!({
        "board": board.leaderboard_id,
        "title": settings.title,
        "metadata": serde_json::from_str::<Value>(&settings.metadata_json).unwrap_or_default(),
        "order": order(&settings),
        "operator": operator(&settings),
        "reset_schedule": Some(&settings.reset_schedule).filter(|schedule| !schedule.is_empty()),
        "min_score": settings.min_score,
        "max_score": settings.max_score,
        "client_submit": settings.client_submit,
        "periods_kept": settings.periods_kept,
        "period": board.period,
        "period_began_at": when(board.period_began_at),
        "next_reset_at": when(board.next_reset_at),
        "created_at": when(board.created_at),
        "changes": board.sequence,
        "declared": board.declared,
    })
}

fn entry_object(entry: &LeaderboardEntry) -> Value {
    json!({
        "board": entry.leaderboard_id,
        "player_id": entry.player_id,
        "score": entry.score,
        "sub_score": entry.sub_score,
        "rank": Some(entry.rank).filter(|rank| *rank > 0),
        "updated_at": when(entry.updated_at),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        given: Given,
    }

    #[test]
    fn only_what_is_given_is_changed() {
        let read = |words: &[&str]| {
            let line = Line::try_parse_from(std::iter::once("boards").chain(words.iter().copied())).expect("parses");
            line.given.read()
        };
        let (settings, fields) = read(&["--min-score", "-1.5", "--max-score", "", "--client-submit"]).expect("reads");
        assert_eq!(fields, ["min_score", "max_score", "client_submit"]);
        assert_eq!((settings.min_score, settings.max_score, settings.client_submit), (Some(-1.5), None, true));
        assert!(!read(&["--client-submit", "false"]).expect("reads").0.client_submit);
        assert!(read(&[]).expect("reads").1.is_empty() && read(&["--periods-kept", "many"]).is_err());
    }

    #[test]
    fn boards_are_a_table() {
        let settings =
            BoardSettings { title: "Laps".into(), order: BoardOrder::Low.into(), ..BoardSettings::default() };
        let next_reset_at = Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 });
        let laps = Board { leaderboard_id: "laps".into(), settings: Some(settings), next_reset_at, ..Board::default() };
        assert_eq!(
            table(&[laps, Board { leaderboard_id: "wins".into(), ..Board::default() }]),
            "BOARD  ORDER  OPERATOR  PERIOD  NEXT RESET            CLIENTS  TITLE\n\
             laps   low    last      0       2027-01-15T08:00:00Z  no       Laps\n\
             wins   high   last      0       -                     no"
        );
    }
}
