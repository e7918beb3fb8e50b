//! Reading the Prometheus text format as it is rendered here.

use std::collections::BTreeMap;

/// One line's name, labels and value.
#[derive(Debug, PartialEq)]
pub struct Sample<'a> {
    pub name: &'a str,
    /// Without what escapes their values.
    pub labels: Vec<(&'a str, String)>,
    pub value: f64,
}

/// A histogram's series.
#[derive(Debug, Default, PartialEq)]
pub struct Distribution {
    /// Upper bounds with how many samples are below them, the last one infinite.
    pub buckets: Vec<(f64, u64)>,
    pub sum: f64,
    pub count: u64,
}

/// The series of one metric, by their labels.
#[derive(Debug, PartialEq)]
pub enum Family {
    Counter(BTreeMap<Labels, f64>),
    Gauge(BTreeMap<Labels, f64>),
    Histogram(BTreeMap<Labels, Distribution>),
}

pub type Labels = Vec<(String, String)>;

/// A line that is no comment; none if it cannot be read.
#[must_use]
pub fn sample(line: &str) -> Option<Sample<'_>> {
    if line.starts_with('#') {
        return None;
    }
    // Labels may hold spaces, the value does not.
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, rest)) = series.split_once('{') else {
        return Some(Sample { name: series, labels: Vec::new(), value });
    };
    Some(Sample { name, labels: labels(rest.strip_suffix('}')?)?, value })
}

fn labels(mut text: &str) -> Option<Vec<(&str, String)>> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.push((name, value));
        text = rest[end + 1..].trim_start_matches(',');
    }
    Some(labels)
}

/// Everything, by the metrics' names; lines that cannot be read are left out.
#[must_use]
pub fn families(text: &str) -> BTreeMap<&str, Family> {
    let mut families = BTreeMap::new();
    let mut of = "";
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            of = name;
            let family = match kind {
                "counter" => Family::Counter(BTreeMap::new()),
                "histogram" => Family::Histogram(BTreeMap::new()),
                _ => Family::Gauge(BTreeMap::new()),
            };
            families.insert(name, family);
        } else if let (Some(sample), Some(family)) = (sample(line), families.get_mut(of)) {
            take(family, of, sample);
        }
    }
    families
}

fn take(family: &mut Family, name: &str, sample: Sample<'_>) {
    let bound = sample.labels.iter().find(|(name, _)| *name == "le").and_then(|(_, bound)| bound.parse().ok());
    let labels =
        sample.labels.into_iter().filter(|(name, _)| *name != "le").map(|(name, value)| (name.to_owned(), value));
    match family {
        Family::Counter(series) | Family::Gauge(series) => drop(series.insert(labels.collect(), sample.value)),
        Family::Histogram(series) => {
            let distribution = series.entry(labels.collect()).or_default();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of samples")]
            let count = sample.value as u64;
            match (sample.name.strip_prefix(name), bound) {
                (Some("_bucket"), Some(bound)) => distribution.buckets.push((bound, count)),
                (Some("_sum"), _) => distribution.sum = sample.value,
                (Some("_count"), _) => distribution.count = count,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_their_labels() {
        let read = sample(r#"a_total{x="1, \"2\"} 3",y=""} 4.5"#).unwrap();
        assert_eq!((read.name, read.value), ("a_total", 4.5));
        assert_eq!(read.labels, [("x", "1, \"2\"} 3".to_owned()), ("y", String::new())]);
        assert_eq!(sample("a 1").unwrap().labels, []);
        for line in ["", "# TYPE a counter", "a{x=\"1} 2", "a b", "a{x} 1"] {
            assert_eq!(sample(line), None, "{line}");
        }
    }

    #[test]
    fn series_come_together_by_their_metric() {
        let text = "# HELP h Of it.\n# TYPE h histogram\nh_bucket{m=\"a\",le=\"1\"} 2\nh_bucket{m=\"a\",le=\"+Inf\"} 3\nh_sum{m=\"a\"} 7.5\n\
                    h_count{m=\"a\"} 3\n\n# TYPE g gauge\ng 2\nnonsense\n";
        let read = families(text);
        let labels = vec![("m".to_owned(), "a".to_owned())];
        let buckets = vec![(1.0, 2), (f64::INFINITY, 3)];
        let expected = Family::Histogram([(labels, Distribution { buckets, sum: 7.5, count: 3 })].into());
        assert_eq!(read.get("h"), Some(&expected));
        assert_eq!(read.get("g"), Some(&Family::Gauge([(Vec::new(), 2.0)].into())));
        assert_eq!(read.len(), 2);
    }
}
