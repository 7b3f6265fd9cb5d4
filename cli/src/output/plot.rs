//! Charts over chunk sizes, as SVG: panels one below the other over one logarithmic axis.
//!
//! The drawing is plain text: no fonts are embedded and nothing is fetched, so that a browser, a
//! word processor and `rsvg-convert` show the same.

use cairn_engine::printable::is_printable;
use std::fmt::Write as _;

use super::size;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 92.0;
const RIGHT: f64 = 128.0;
const TOP: f64 = 90.0;
const PANEL_HEIGHT: f64 = 190.0;
const PANEL_GAP: f64 = 54.0;
const BOTTOM: f64 = 62.0;
/// Colours that stay apart for colour-blind readers and in grey (after Okabe and Ito).
const COLOURS: [&str; 6] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00",
];

/// A chart: what it shows, and its panels from top to bottom.
#[derive(Debug, Clone)]
pub struct Plot {
    /// Heading.
    pub title: String,
    /// Line below the heading: what was measured, on what.
    pub subtitle: String,
    /// Diagrams over the same chunk sizes.
    pub panels: Vec<Panel>,
}

/// One diagram of a chart. Its axis begins at zero, so that heights can be compared.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What the vertical axis shows.
    pub label: String,
    /// How its values are written.
    pub unit: Unit,
    /// The lines.
    pub series: Vec<Series>,
}

/// How values of an axis are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, in binary units.
    Bytes,
    /// A ratio, such as `2.5`.
    Ratio,
}

/// One line of a diagram.
#[derive(Debug, Clone)]
pub struct Series {
    /// What it is called, written at its right end.
    pub name: String,
    /// Chunk size in bytes and value, in ascending order of chunk sizes.
    pub points: Vec<(u64, f64)>,
}

impl Plot {
    /// Draws the chart. Sizes of zero and values that are no finite numbers are left out.
    pub fn to_svg(&self) -> String {
        let height = self.panels.iter().fold(TOP + BOTTOM - PANEL_GAP, |sum, _| {
            sum + PANEL_HEIGHT + PANEL_GAP
        });
        let columns = Columns::over(self);
        let mut svg = Svg::begin(WIDTH, height);
        svg.text(LEFT, 28.0, "title", &self.title);
        svg.text(LEFT, 47.0, "note", &self.subtitle);
        let mut top = TOP;
        for panel in &self.panels {
            panel.draw(&mut svg, &columns, top);
            top += PANEL_HEIGHT + PANEL_GAP;
        }
        let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
        svg.text(middle, height - 14.0, "label middle", "average chunk size");
        svg.end()
    }
}

/// Where chunk sizes stand: equal steps for equal factors.
struct Columns {
    sizes: Vec<u64>,
    first: f64,
    last: f64,
}

impl Columns {
    fn over(plot: &Plot) -> Self {
        let series = plot.panels.iter().flat_map(|panel| &panel.series);
        let mut sizes: Vec<u64> = series
            .flat_map(Series::drawn)
            .map(|(size, _)| size)
            .collect();
        sizes.sort_unstable();
        sizes.dedup();
        let log = |size: Option<&u64>| size.map_or(0.0, |size| (*size as f64).log2());
        Self {
            first: log(sizes.first()),
            last: log(sizes.last()),
            sizes,
        }
    }

    fn x(&self, size: u64) -> f64 {
        let width = WIDTH - LEFT - RIGHT;
        if self.last <= self.first {
            return LEFT + width / 2.0;
        }
        // Half a step of air on both sides keeps the first and last points off the frame.
        let inset = width * 0.03;
        let share = ((size as f64).log2() - self.first) / (self.last - self.first);
        LEFT + inset + share * (width - 2.0 * inset)
    }
}

impl Series {
    fn drawn(&self) -> impl Iterator<Item = (u64, f64)> + '_ {
        self.points
            .iter()
            .copied()
            .filter(|(size, value)| *size > 0 && value.is_finite())
    }
}

impl Unit {
    fn write(self, value: f64, step: f64) -> String {
        match self {
            Self::Bytes => size::approximate(value),
            Self::Ratio if step >= 1.0 => format!("{value:.0}"),
            Self::Ratio if step >= 0.1 => format!("{value:.1}"),
            Self::Ratio => format!("{value:.2}"),
        }
    }

    /// Returns a round distance between grid lines, for about five of them up to `max`.
    fn step(self, max: f64) -> f64 {
        let target = (max / 5.0).max(f64::MIN_POSITIVE);
        match self {
            Self::Bytes => target.max(1.0).log2().ceil().exp2(),
            Self::Ratio => {
                let decade = 10_f64.powf(target.log10().floor());
                let round = [1.0, 2.0, 2.5, 5.0]
                    .into_iter()
                    .find(|round| round * decade >= target);
                round.unwrap_or(10.0) * decade
            }
        }
    }
}

impl Panel {
    fn draw(&self, svg: &mut Svg, columns: &Columns, top: f64) {
        let bottom = top + PANEL_HEIGHT;
        let values = self
            .series
            .iter()
            .flat_map(Series::drawn)
            .map(|(_, value)| value);
        let max = values.fold(0.0, f64::max);
        let step = self.unit.step(if max > 0.0 { max } else { 1.0 });
        // One step at least; the tolerance keeps rounding from adding an empty one.
        let steps = (max / step - 1e-9).ceil().max(1.0);
        let y = |value: f64| bottom - value / (steps * step) * PANEL_HEIGHT;

        for line in 0..=steps as u32 {
            let value = f64::from(line) * step;
            let class = if line == 0 { "axis" } else { "grid" };
            svg.line((LEFT, y(value)), (WIDTH - RIGHT, y(value)), class);
            let text = self.unit.write(value, step);
            svg.text(LEFT - 8.0, y(value) + 4.0, "tick end", &text);
        }
        for size in &columns.sizes {
            let x = columns.x(*size);
            svg.line((x, bottom), (x, bottom + 5.0), "axis");
            svg.text(x, bottom + 19.0, "tick middle", &size::exact(*size));
        }
        svg.text(LEFT, top - 10.0, "label", &self.label);

        let mut ends = Vec::new();
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let points: Vec<(f64, f64)> = series
                .drawn()
                .map(|(size, value)| (columns.x(size), y(value)))
                .collect();
            svg.curve(&points, colour);
            if let Some(end) = points.last() {
                ends.push((end.1, series.name.as_str(), *colour));
            }
        }
        draw_names(svg, ends);
    }
}

/// Writes names beside the ends of their lines, pushed apart where lines end close together.
fn draw_names(svg: &mut Svg, mut ends: Vec<(f64, &str, &str)>) {
    const LINE_HEIGHT: f64 = 15.0;
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut lowest = f64::NEG_INFINITY;
    for (y, name, colour) in ends {
        let y = y.max(lowest + LINE_HEIGHT);
        lowest = y;
        svg.coloured_text(WIDTH - RIGHT + 8.0, y + 4.0, colour, name);
    }
}

/// An SVG document in the making. Every text that goes in is escaped here.
struct Svg(String);

const STYLE: &str = "text{font-family:sans-serif;font-size:12px;fill:#333}\
    .title{font-size:17px;font-weight:bold;fill:#111}.note{fill:#666}\
    .label{font-size:13px;font-weight:bold}.end{text-anchor:end}.middle{text-anchor:middle}\
    .grid{stroke:#e2e2e2}.axis{stroke:#555}.curve{fill:none;stroke-width:2.2}";

impl Svg {
    fn begin(width: f64, height: f64) -> Self {
        let mut svg = Self(String::new());
        svg.push(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\">\n<style>{STYLE}</style>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
        ));
        svg
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        self.0
            .write_fmt(text)
            .expect("writing to a String cannot fail");
    }

    fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = escape(text);
        self.push(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{text}</text>\n"
        ));
    }

    fn coloured_text(&mut self, x: f64, y: f64, colour: &str, text: &str) {
        let text = escape(text);
        // A style outranks the sheet's colour of texts; an attribute would not.
        self.push(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" style=\"fill:{colour}\">{text}</text>\n"
        ));
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" \
             class=\"{class}\"/>\n"
        ));
    }

    fn curve(&mut self, points: &[(f64, f64)], colour: &str) {
        let path: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let path = path.join(" ");
        self.push(format_args!(
            "<polyline points=\"{path}\" class=\"curve\" stroke=\"{colour}\"/>\n"
        ));
        for (x, y) in points {
            self.push(format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>\n"
            ));
        }
    }

    fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

/// Escapes what XML would read as markup, and leaves out what it cannot hold at all.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => {}
            _ if !is_printable(character) => escaped.push(' '),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    fn example() -> Plot {
        let sizes = [4, 8, 16, 32, 64, 128, 256, 512, 1024].map(|size| size * KIB);
        let line = |name: &str, values: [f64; 9], factor: f64| Series {
            name: name.to_owned(),
            points: sizes
                .into_iter()
                .zip(values.map(|value| value * factor))
                .collect(),
        };
        let stored = [1.52, 1.44, 1.43, 1.55, 1.74, 1.96, 2.2, 2.42, 2.6];
        let unique = [3.2, 3.3, 3.41, 3.6, 3.9, 4.3, 4.9, 5.5, 6.1];
        let ratio = [4.4, 4.3, 4.2, 3.9, 3.6, 3.3, 2.9, 2.6, 2.3];
        Plot {
            title: "Deduplication by chunk size".to_owned(),
            subtitle: "7 images, 14.2 GiB of data: \"day<0>\" & others".to_owned(),
            panels: vec![
                Panel {
                    label: "stored".to_owned(),
                    unit: Unit::Bytes,
                    series: vec![
                        line("compressed", stored, 1e9),
                        line("deduplicated", unique, 1e9),
                    ],
                },
                Panel {
                    label: "deduplication ratio".to_owned(),
                    unit: Unit::Ratio,
                    series: vec![line("ratio", ratio, 1.0)],
                },
            ],
        }
    }

    /// Checks the nesting of tags and the quoting of attributes; returns how many tags of each
    /// name there are.
    fn count_tags(svg: &str) -> Result<std::collections::BTreeMap<String, usize>, String> {
        let mut open: Vec<String> = Vec::new();
        let mut counts = std::collections::BTreeMap::new();
        let mut rest = svg;
        while let Some((text, tail)) = rest.split_once('<') {
            check_text(text)?;
            let (tag, tail) = tail.split_once('>').ok_or("a tag does not end")?;
            rest = tail;
            if let Some(name) = tag.strip_prefix('/') {
                let opened = open.pop().ok_or("a tag is closed that was not opened")?;
                if opened != name {
                    return Err(format!("{opened} is closed as {name}"));
                }
                continue;
            }
            let (body, closed) = tag
                .strip_suffix('/')
                .map_or((tag, false), |body| (body, true));
            if body.matches('"').count() % 2 != 0 {
                return Err(format!("quotes of <{tag}> do not pair"));
            }
            let name = body.split(' ').next().unwrap_or_default().to_owned();
            *counts.entry(name.clone()).or_default() += 1;
            if !closed {
                open.push(name);
            }
        }
        if open.is_empty() {
            Ok(counts)
        } else {
            Err(format!("{open:?} stay open"))
        }
    }

    fn check_text(text: &str) -> Result<(), String> {
        for part in text.split('&').skip(1) {
            let entity = part.split(';').next().unwrap_or_default();
            if !["amp", "lt", "gt", "quot"].contains(&entity) {
                return Err(format!("&{entity} is no entity"));
            }
        }
        Ok(())
    }

    #[test]
    fn the_drawing_is_well_formed_and_whole() {
        let svg = example().to_svg();
        if let Some(file) = std::env::var_os("CAIRN_PLOT_SAMPLE") {
            std::fs::write(file, &svg).expect("the sample can be written");
        }
        let counts = count_tags(&svg).expect("the drawing is well-formed");
        assert_eq!(counts["svg"], 1);
        assert_eq!(counts["polyline"], 3);
        assert_eq!(counts["circle"], 27);
        assert!(svg.contains("&quot;day&lt;0&gt;&quot; &amp; others"));
        assert!(svg.contains(">16 KiB</text>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn little_or_nothing_to_draw_is_drawn_too() {
        let mut plot = example();
        for panel in &mut plot.panels {
            for series in &mut panel.series {
                series.points = vec![(0, 1.0), (4096, f64::NAN), (16 * KIB, 0.0)];
            }
        }
        let svg = plot.to_svg();
        assert_eq!(
            count_tags(&svg).expect("the drawing is well-formed")["circle"],
            3
        );
        assert!(!svg.contains("NaN"));
        plot.panels.clear();
        count_tags(&plot.to_svg()).expect("the drawing is well-formed");
    }

    #[test]
    fn grid_lines_stand_at_round_values() {
        assert_eq!(Unit::Ratio.step(4.4), 1.0);
        assert_eq!(Unit::Ratio.step(9.0), 2.0);
        assert_eq!(Unit::Ratio.step(0.9), 0.2);
        assert_eq!(Unit::Bytes.step(5.0 * 1024.0), 1024.0);
        assert_eq!(Unit::Bytes.step(6.1e9), 2.0 * 1024_f64.powi(3));
        assert_eq!(Unit::Bytes.step(0.9e9), 256.0 * 1024_f64.powi(2));
        assert_eq!(Unit::Bytes.step(2.0), 1.0);
    }
}
