//! Tables of a run in a page that was written by hand.

use super::{Report, markdown};
use crate::Failure;

/// Ends what a run writes.
const END: &str = "<!-- /peers -->";

/// The page with everything between `<!-- peers:NAME -->` and `<!-- /peers -->` replaced, where `NAME` is
/// `machine`, `required` or one of the rows this run measured. Rows that it did not measure stay.
pub(super) fn filled(page: &str, report: &Report) -> Result<String, Failure> {
    let mut page = replaced(page, "machine", &markdown::machine(report))?;
    page = replaced(&page, "required", &markdown::required(report))?;
    for measured in &report.measured {
        page = replaced(&page, measured.section.id, &markdown::tables(measured))?;
    }
    Ok(page)
}

fn replaced(page: &str, name: &str, content: &str) -> Result<String, Failure> {
    let begin = format!("<!-- peers:{name} -->");
    let parts = page.split_once(&begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.ok_or_else(|| format!("the page has no {begin} … {END}"))?;
    let content = content.trim();
    Ok(format!("{before}{begin}\n\n{content}\n\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::replaced;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let page = "a <!-- peers:x -->old<!-- /peers --> b <!-- peers:y -->kept<!-- /peers -->";
        let filled = replaced(page, "x", "new\n").unwrap_or_default();
        let expected =
            "a <!-- peers:x -->\n\nnew\n\n<!-- /peers --> b <!-- peers:y -->kept<!-- /peers -->";
        assert_eq!(filled, expected);
        assert!(replaced(page, "z", "").is_err());
    }
}
