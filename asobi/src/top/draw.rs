//! The screen as a function of what it shows.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table},
};

use super::{
    model::{Condition, Model, SortBy},
    text,
};

/// What the screen shows.
#[derive(Debug, Default)]
pub struct View {
    /// None: nothing was heard yet.
    pub model: Option<Model>,
    pub sort: SortBy,
    pub reversed: bool,
    /// Nodes above the first that is shown.
    pub scrolled: usize,
}

/// Lines of the queue, its head included; the rest of the screen is the nodes'.
const QUEUE_LINES: u16 = 9;
/// Between two columns.
const SPACE: u16 = 2;

pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let Some(model) = &view.model else {
        frame.render_widget(Paragraph::new("The cluster is asked …"), frame.area());
        return;
    };
    let problem = u16::from(model.problem.is_some());
    let queue = u16::try_from(model.queue.len()).unwrap_or(u16::MAX).saturating_add(2).min(QUEUE_LINES);
    let queue = if model.queue.is_empty() { 0 } else { queue };
    let [head, said, nodes, modes, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(problem),
        Constraint::Min(2),
        Constraint::Length(queue),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let [first, second] = text::header(&model.totals);
    frame.render_widget(Paragraph::new(vec![Line::from(first), Line::from(second)]), head);
    if let Some(problem) = &model.problem {
        let warning = Style::new().fg(Color::Red);
        frame.render_widget(Paragraph::new(Span::styled(format!("registry: {problem}"), warning)), said);
    }
    draw_nodes(frame, nodes, model, view.scrolled);
    draw_queue(frame, modes, model);
    frame.render_widget(Paragraph::new(foot_line(view)), foot);
}

fn draw_nodes(frame: &mut Frame<'_>, area: Rect, model: &Model, scrolled: usize) {
    let rows: Vec<_> = model.rows.iter().map(|row| (row.condition, text::cells(row))).collect();
    let widths = widths(text::NODES, rows.iter().map(|(_, cells)| cells), area.width);
    // The last ones stay in sight, however far it was scrolled.
    let visible = usize::from(area.height.saturating_sub(1)).max(1);
    let first = scrolled.min(rows.len().saturating_sub(visible));
    let shown = rows.into_iter().skip(first).map(|(condition, cells)| {
        let style = match condition {
            Condition::Answers => Style::new(),
            Condition::Silent | Condition::Lost => Style::new().fg(Color::Red),
            Condition::Stopped => Style::new().add_modifier(Modifier::DIM),
        };
        Row::new(cells.into_iter().take(widths.len()).map(Cell::from)).style(style)
    });
    let heading = heading(&text::NODES[..widths.len()]);
    frame.render_widget(Table::new(shown, widths.clone()).header(heading).column_spacing(SPACE), area);
}

fn draw_queue(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    if area.height == 0 {
        return;
    }
    let rows = text::queue(model);
    let widths = widths(text::QUEUE, rows.iter(), area.width);
    let [_, area] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    let shown = rows.into_iter().map(|cells| Row::new(cells.into_iter().take(widths.len()).map(Cell::from)));
    let heading = heading(&text::QUEUE[..widths.len()]);
    frame.render_widget(Table::new(shown, widths.clone()).header(heading).column_spacing(SPACE), area);
}

fn heading(names: &[&str]) -> Row<'static> {
    let names = names.iter().map(|name| Cell::from(name.to_uppercase()));
    Row::new(names).style(Style::new().add_modifier(Modifier::REVERSED))
}

/// As wide as the widest cell; columns that a narrow screen has no room for are left out, and the first one never is.
fn widths<'a, const N: usize>(
    names: [&str; N],
    rows: impl Iterator<Item = &'a [String; N]>,
    screen: u16,
) -> Vec<Constraint> {
    let mut widths = names.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut used = 0;
    let fits = |width: &usize| {
        used += width + usize::from(SPACE);
        used <= usize::from(screen) + usize::from(SPACE)
    };
    let columns = widths.iter().copied().take_while(fits).count().max(1);
    let length = |width: &usize| Constraint::Length(u16::try_from(*width).unwrap_or(u16::MAX));
    widths[..columns].iter().map(length).collect()
}

fn foot_line(view: &View) -> String {
    let order = if view.reversed { ", reversed" } else { "" };
    let keys: Vec<String> = SortBy::ALL.iter().map(|by| format!("{} {}", by.key(), by.name())).collect();
    format!("q quits   by {}{order}   sort: {}   arrows scroll", view.sort.name(), keys.join(", "))
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::{super::model::tests::looks, *};

    fn screen(width: u16, height: u16, view: &View) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    fn view() -> View {
        let (first, second) = looks();
        View { model: Some(Model::of(Some(&first), &second)), ..View::default() }
    }

    #[test]
    fn the_screen_has_totals_nodes_and_queue() {
        let lines = screen(130, 16, &view());
        assert!(lines[0].starts_with("nodes 3/4 alive, 2 answer   sessions 5   matches 0   queued 4"), "{}", lines[0]);
        assert!(lines[1].contains("out 150/s") && lines[1].contains("NOTIFY lag 10.0 ms"), "{}", lines[1]);
        assert!(lines[3].starts_with("NODE          ROLE"), "{}", lines[3]);
        assert!(lines[4].starts_with("gateway-0     gateway     ready         3/10  75 %  64 MiB"), "{}", lines[4]);
        assert!(lines[5].contains("no answer") && lines[6].contains("lost"), "{lines:#?}");
        assert!(lines.iter().any(|line| line.starts_with("duel  3        4")), "{lines:#?}");
        assert!(lines[15].starts_with("q quits   by role"), "{}", lines[15]);
    }

    #[test]
    fn a_small_screen_shows_what_fits_and_scrolls_to_the_last() {
        let scrolled = View { scrolled: 100, ..view() };
        let lines = screen(60, 9, &scrolled);
        assert!(lines.iter().any(|line| line.starts_with("matchmaker-0")), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.starts_with("gateway-0")), "{lines:#?}");
        screen(1, 1, &view());
    }

    #[test]
    fn before_anything_is_heard_it_says_so_and_a_problem_is_in_sight() {
        assert!(screen(40, 3, &View::default())[0].starts_with("The cluster is asked"));
        let mut troubled = view();
        troubled.model.as_mut().unwrap().problem = Some("the database is away".into());
        assert_eq!(screen(80, 12, &troubled)[3], "registry: the database is away");
    }
}
