//! The page's text and tables.

use super::charts::{self, is_floor};
use super::{Comparison, Report, Section, Thumbnails, escape};
use crate::train::statistics::{Figure, GeneratorFigures, Judged, Logistic, Metrics, by_generator};

const STYLE: &str = include_str!("style.css");
/// Items that are shown as judged worst.
const WORST: usize = 12;
/// Characters of a prompt and of a name that are shown.
const PROMPT_LENGTH: usize = 160;

pub(super) fn html(report: &Report, thumbnails: &mut Thumbnails) -> String {
    let title = escape(&report.title);
    let facts = report.facts.iter().map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>", escape(name), escape(value)));
    let facts: String = facts.collect();
    let charts: String = report.charts.iter().map(|chart| figure(&chart.title, &charts::curves(chart), "")).collect();
    let charts = match report.charts.len() {
        0 => charts,
        // An ablation's only one, which the page is about.
        1 => format!("<section>{charts}</section>"),
        _ => format!(r#"<section><h2>Training</h2><div class="pair">{charts}</div></section>"#),
    };
    let comparison = report.comparison.as_ref().map(comparison).unwrap_or_default();
    let sections: String = report.sections.iter().map(|part| section(part, thumbnails)).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<header><h1>{title}</h1><dl>{facts}</dl></header>\n\
         <main>{charts}{comparison}{sections}</main>\n</body>\n</html>\n"
    )
}

fn section(section: &Section, thumbnails: &mut Thumbnails) -> String {
    let mut html = format!("<section><h2>{}</h2>", escape(&section.title));
    if let Some((name, metrics)) = section.rows.first() {
        html += &tiles(name, metrics);
        html += &floor_line(name, metrics, &section.rows);
        html += &figure("Every system", &charts::ranking(&section.rows), "");
        html += &table(&section.rows);
    }
    if !section.judged.is_empty() {
        html += &judged(section, thumbnails);
    }
    html + "</section>\n"
}

/// The first system's figures, large.
fn tiles(name: &str, metrics: &Metrics) -> String {
    let tile = |(label, figure): (&str, Option<Figure>)| {
        let interval = figure.and_then(|figure| figure.interval).map(interval).unwrap_or_default();
        format!(r#"<div class="tile"><span>{label}</span><b>{}</b><small>{interval}</small></div>"#, value(figure))
    };
    let figures = [
        ("SRCC", metrics.srcc),
        ("PLCC", metrics.plcc),
        ("main score", metrics.main),
        ("KRCC", metrics.krcc),
        ("RMSE", metrics.rmse),
    ];
    let tiles: String = figures.into_iter().map(tile).collect();
    let (name, items, prompts) = (escape(name), metrics.items, metrics.prompts);
    let plural = if prompts == 1 { "" } else { "s" };
    format!(
        r#"<p class="of"><b>{name}</b> on {items} items of {prompts} prompt{plural}</p><div class="tiles">{tiles}</div>"#
    )
}

/// What the best floor reaches, and where the first system stands to it.
fn floor_line(own_name: &str, metrics: &Metrics, rows: &[(String, Metrics)]) -> String {
    let floors = rows.iter().filter(|(name, _)| is_floor(name));
    let best =
        floors.filter_map(|(name, metrics)| Some((name, metrics.srcc?.value))).max_by(|a, b| a.1.total_cmp(&b.1));
    let Some(((name, floor), own)) = best.zip(metrics.srcc) else { return String::new() };
    let own_name = escape(own_name);
    if floor <= 0.0 {
        let sentence = "Without looking at a pixel nothing can be told of these items: no floor has a positive SRCC.";
        return format!(r#"<p class="floor-line">{sentence}</p>"#);
    }
    let what = escape(name.trim_start_matches("floor: "));
    let difference = own.value - floor;
    let side = if difference < 0.0 { "below" } else { "above" };
    let difference = difference.abs();
    format!(
        r#"<p class="floor-line">Without looking at a pixel, the best floor ({what}) reaches SRCC {floor:.3}: {own_name} is {difference:.3} {side} it.</p>"#
    )
}

fn table(rows: &[(String, Metrics)]) -> String {
    let head: String = Metrics::TITLES.iter().chain(&["items"]).map(|title| format!("<th>{title}</th>")).collect();
    let row = |(name, metrics): &(String, Metrics)| {
        let cells: String = metrics.figures().map(cell).concat();
        let class = if is_floor(name) { r#" class="floor""# } else { "" };
        let (name, items) = (escape(name), metrics.items);
        format!("<tr{class}><th>{name}</th>{cells}<td>{items}</td></tr>")
    };
    let gaps = gaps(Metrics::gaps(rows.iter().map(|(_, metrics)| metrics)));
    let rows: String = rows.iter().map(row).collect();
    format!(
        "<div class=\"scroll\"><table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>\
         <p class=\"note\">Small figures are 95 % intervals, by resampling prompts. <i>Fitted</i> is after the logistic \
         curve of four parameters. Main is (SRCC + PLCC) / 2. Floors are predicted from the generator&#8217;s name and \
         the prompt&#8217;s words alone, for prompts that they were not fitted on.{gaps}</p>"
    )
}

fn comparison(comparison: &Comparison) -> String {
    let Comparison { labels, headings, rows } = comparison;
    let mut head: String = labels.iter().map(|label| format!("<th>{}</th>", escape(label))).collect();
    for heading in headings {
        let heading = escape(heading);
        head += &["SRCC", "PLCC", "main"].map(|figure| format!("<th>{heading} {figure}</th>")).concat();
    }
    let row = |(names, cells): &(Vec<String>, Vec<Option<Metrics>>)| {
        let class = if names.iter().any(|name| is_floor(name)) { r#" class="floor""# } else { "" };
        let names: String = names.iter().map(|name| format!("<th>{}</th>", escape(name))).collect();
        let figures = |metrics: &Option<Metrics>| {
            let metrics = metrics.as_ref();
            [metrics.and_then(|m| m.srcc), metrics.and_then(|m| m.plcc), metrics.and_then(|m| m.main)]
                .map(cell)
                .concat()
        };
        format!("<tr{class}>{names}{}</tr>", cells.iter().map(figures).collect::<String>())
    };
    let gaps = gaps(Metrics::gaps(rows.iter().flat_map(|(_, cells)| cells.iter().flatten())));
    let rows: String = rows.iter().map(row).collect();
    format!(
        "<section><div class=\"scroll\"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>\
         <p class=\"note\">Small figures are 95 % intervals, by resampling prompts. Main is (SRCC + PLCC) / 2.{gaps}\
         </p></section>"
    )
}

/// The end of a note under a table.
fn gaps(why: Option<String>) -> String {
    why.map(|why| format!(" –: {}.", escape(&why))).unwrap_or_default()
}

fn cell(figure: Option<Figure>) -> String {
    let interval = figure.and_then(|figure| figure.interval).map(interval).unwrap_or_default();
    format!("<td>{}<small>{interval}</small></td>", value(figure))
}

fn value(figure: Option<Figure>) -> String {
    figure.map_or("–".to_owned(), |figure| format!("{:.3}", figure.value))
}

fn interval([low, high]: [f64; 2]) -> String {
    format!("{low:.3} to {high:.3}")
}

/// Scatter, residuals and the worst items.
fn judged(section: &Section, thumbnails: &mut Thumbnails) -> String {
    let judged = &section.judged;
    let (predicted, mos): (Vec<f64>, Vec<f64>) = judged.iter().map(|item| (item.predicted, item.mos)).unzip();
    let curve = Logistic::fit(&predicted, &mos);
    let on_scale = |item: &Judged| curve.map_or(item.predicted, |curve| curve.apply(item.predicted));
    let residual = |item: &Judged| on_scale(item) - item.mos;

    let (scatter, drawn) = charts::scatter(judged, curve);
    let mut note = "The line is the logistic curve that fits best.".to_owned();
    if let Some(drawn) = drawn {
        note += &format!(" {drawn} of {} items are drawn.", judged.len());
    }
    let mut html = format!(r#"<div class="pair">{}"#, figure("Predicted and MOS", &scatter, &note));
    if let Some((boxes, left_out)) = charts::residuals(judged, residual) {
        let mut note = "After the curve. Median, middle half, and middle 90 % of each generator&#8217;s items \
                        (their number)."
            .to_owned();
        if left_out > 0 {
            note += &format!(" {left_out} generators with fewer items are left out.");
        }
        let (residuals, table) = (figure("Residuals by generator", &boxes, &note), generators(&by_generator(judged)));
        html += &format!("<div>{residuals}{table}</div>");
    }
    html += "</div>";

    let mut worst: Vec<&Judged> = judged.iter().collect();
    worst.sort_by(|a, b| residual(b).abs().total_cmp(&residual(a).abs()));
    let cards = worst.into_iter().take(WORST).map(|item| card(item, on_scale(item), thumbnails));
    let cards: String = cards.collect();
    html + "<h3>Judged worst</h3><p class=\"note\">The items whose prediction, after the curve, is farthest from their \
            MOS. A video is shown by its middle frame, squashed to a square.</p><div class=\"cards\">"
        + &cards
        + "</div>"
}

/// How the generators fare.
fn generators(figures: &[GeneratorFigures]) -> String {
    let row = |figures: &GeneratorFigures| {
        let GeneratorFigures { generator, items, mos, predicted, srcc } = figures;
        let srcc = srcc.map_or("–".to_owned(), |srcc| format!("{srcc:.3}"));
        let generator = shortened(generator);
        format!("<tr><th>{generator}</th><td>{items}</td><td>{mos:.3}</td><td>{predicted:.3}</td><td>{srcc}</td></tr>")
    };
    let rows: String = figures.iter().map(row).collect();
    let gaps = gaps(GeneratorFigures::gaps(figures));
    let note = if gaps.is_empty() { gaps } else { format!(r#"<p class="note">{}</p>"#, gaps.trim()) };
    format!(
        "<div class=\"scroll\"><table class=\"narrow\"><thead><tr><th></th><th>items</th><th>mean MOS</th>\
         <th>mean predicted</th><th>SRCC among them</th></tr></thead><tbody>{rows}</tbody></table></div>{note}"
    )
}

fn card(item: &Judged, on_scale: f64, thumbnails: &mut Thumbnails) -> String {
    let picture = match thumbnails.data_uri(&item.path) {
        Some(uri) => format!(r#"<img src="{uri}" alt=""/>"#),
        None => r#"<div class="nothing">no picture</div>"#.to_owned(),
    };
    let difference = on_scale - item.mos;
    let direction = if difference < 0.0 { "low" } else { "high" };
    let generator = item.generator.as_ref().map(|name| format!(" · {}", shortened(name))).unwrap_or_default();
    format!(
        r#"<div class="card">{picture}<p class="figures"><b>{on_scale:.2}</b> for {:.2} <span class="{direction}">{difference:+.2}</span></p><p class="prompt">{}</p><p class="name">{}{generator}</p></div>"#,
        item.mos,
        shortened(&item.prompt),
        shortened(&item.name),
    )
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(PROMPT_LENGTH) {
        Some((end, _)) => escape(&text[..end]) + "…",
        None => escape(text),
    }
}

fn figure(title: &str, picture: &str, note: &str) -> String {
    let note = if note.is_empty() { String::new() } else { format!(r#"<p class="note">{note}</p>"#) };
    format!("<figure><figcaption>{}</figcaption>{picture}{note}</figure>", escape(title))
}
