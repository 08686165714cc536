//! Words that the daemon's and the client's messages have in common: how a name or a label stands in them.

/// A name or label in a message: as it stands, in quotes, but for characters that would break the line.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// What a caller sent, in quotes and cut to a length that fits into a message.
pub fn shown(text: &str) -> String {
    let start: String = text.chars().take(80).collect();
    if start.len() < text.len() { format!("{}...", quoted(&start)) } else { quoted(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_quotes_is_shown_as_it_stands() {
        for text in ["spam", "C:\\data", "say \"no\"", "e\u{301}", "\u{1f469}\u{200d}\u{1f52c}", "日本"] {
            assert_eq!(quoted(text), format!("\"{text}\""));
        }
        assert_eq!(quoted("a\tb\x1bc"), "\"a\\tb c\"");
    }
}
