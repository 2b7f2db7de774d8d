//! A node's `/metrics`, read as Prometheus does.

use std::collections::BTreeMap;
use std::time::Duration;

use roomgate::dev::{Api, Gateway};

pub struct Scrape {
    /// What is after `# TYPE`: the kind of every family that has series.
    pub kinds: BTreeMap<String, String>,
    pub samples: Vec<Sample>,
}

pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// All series of a family that have these labels, as in a query:
/// `name{label="value"}`. Of a histogram, how many observations there were.
pub struct Series {
    pub family: String,
    pub labels: BTreeMap<String, String>,
}

impl Scrape {
    pub async fn of(node: &Gateway) -> Self {
        Self::try_of(node).await.expect("the node answers")
    }

    /// None while nobody answers.
    pub async fn try_of(node: &Gateway) -> Option<Self> {
        let api = Api::new(&node.admin_url());
        let answer = tokio::time::timeout(Duration::from_secs(5), api.get("/metrics")).await;
        Some(Self::read(&answer.ok()?.ok()?.text))
    }

    fn read(text: &str) -> Self {
        let kind = |line: &str| {
            let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
            Some((name.to_owned(), kind.to_owned()))
        };
        let (comments, samples): (Vec<&str>, Vec<&str>) =
            text.lines().filter(|line| !line.is_empty()).partition(|line| line.starts_with('#'));
        Self {
            kinds: comments.into_iter().filter_map(kind).collect(),
            samples: samples.into_iter().map(Sample::read).collect(),
        }
    }

    /// Zero for what isn't there.
    pub fn sum(&self, series: &Series) -> f64 {
        let is_histogram = self.kinds.get(&series.family).is_some_and(|kind| kind == "histogram");
        let name = if is_histogram { format!("{}_count", series.family) } else { series.family.clone() };
        let fits = |sample: &&Sample| sample.name == name && series.fits(&sample.labels);
        self.samples.iter().filter(fits).map(|sample| sample.value).sum()
    }

    /// Of one family, by its name without labels.
    pub fn is_counted(&self, family: &str) -> bool {
        self.kinds.get(family).is_some_and(|kind| kind != "gauge")
    }
}

impl Sample {
    fn read(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let Series { family: name, labels } = Series::read(series);
        Self { name, labels, value: value.parse().unwrap() }
    }
}

impl Series {
    pub fn read(text: &str) -> Self {
        let (family, labels) = text.split_once('{').unwrap_or((text, ""));
        // No value of a label has a comma or a quote in it.
        let labels = labels.trim_end_matches('}').split(',').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap();
            (name.to_owned(), value.trim_matches('"').to_owned())
        };
        Self { family: family.to_owned(), labels: labels.map(pair).collect() }
    }

    /// Whether a series of these labels is among them.
    pub fn fits(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
    }
}
