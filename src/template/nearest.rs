//! Finds the name that was probably meant.

/// The candidate that a mistyped `word` is nearest to, if one is near enough to be worth saying: at most one
/// mistake in four letters (at least one, at most three), a swap of neighbours counting once.
///
/// ```
/// use paquebot::template::nearest;
///
/// assert_eq!(nearest("platfrom", ["model", "platform"]), Some("platform"));
/// assert_eq!(nearest("frequency", ["model", "platform"]), None);
/// ```
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A word far longer than any name is no slip of the finger, and not worth a quadratic comparison.
    if word.len() > 64 {
        return None;
    }
    let word: Vec<char> = word.to_lowercase().chars().collect();
    let limit = (word.len() / 4).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance with swaps of neighbours (optimal string alignment), ignoring case and `-` against `_`.
fn distance(word: &[char], candidate: &str) -> usize {
    let plain = |c: char| if c == '-' { '_' } else { c };
    let other: Vec<char> = candidate.to_lowercase().chars().map(plain).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=other.len()).collect();
    for (row, &left) in word.iter().enumerate() {
        let left = plain(left);
        let mut line = Vec::with_capacity(other.len() + 1);
        line.push(row + 1);
        for (column, &right) in other.iter().enumerate() {
            let replaced = above[column] + usize::from(left != right);
            let mut best = replaced.min(above[column + 1] + 1).min(line[column] + 1);
            let swapped =
                row > 0 && column > 0 && left == other[column - 1] && plain(word[row - 1]) == right;
            if swapped {
                best = best.min(before[column - 1] + 1);
            }
            line.push(best);
        }
        before = std::mem::replace(&mut above, line);
    }
    above[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_name() {
        let names = ["count", "platform", "model", "id"];
        assert_eq!(nearest("cuont", names), Some("count"));
        assert_eq!(nearest("platfrom", names), Some("platform"));
        assert_eq!(nearest("Model", names), Some("model"));
        assert_eq!(nearest("keep-alive", ["keep_alive"]), Some("keep_alive"));
    }

    #[test]
    fn another_word_finds_nothing() {
        let names = ["count", "platform", "model"];
        assert_eq!(nearest("frequency", names), None);
        assert_eq!(nearest("", names), None);
        assert_eq!(nearest(&"count".repeat(100), names), None);
    }

    #[test]
    fn of_two_near_names_the_nearer_wins() {
        assert_eq!(nearest("now_mss", ["now_s", "now_ms"]), Some("now_ms"));
    }
}
