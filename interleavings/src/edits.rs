//! Changes of a text: what is searched, and what takes its place.

/// A change of one file.
pub struct Edit {
    /// What it is.
    pub title: String,
    /// The model that shows it.
    pub model: String,
    /// Its path below src/.
    pub file: String,
    search: String,
    replace: String,
    /// Whether there is one place for it.
    pub has_place: bool,
}

impl Edit {
    /// Looks for the one place in a text that has what is searched, and changes it if `applies`.
    pub fn apply(&mut self, text: &mut String, applies: bool) {
        self.has_place = text.matches(&self.search).count() == 1;
        if applies {
            *text = text.replace(&self.search, &self.replace);
        }
    }
}

/// Reads changes: a line `== title`, a line `file model`, then lines with `-` in front for what is searched, and
/// with `+` for what takes its place. Others are comments.
pub fn parse(text: &str) -> Vec<Edit> {
    let lines_of = |block: &str, sign: &str| {
        let lines = block.lines().filter_map(|line| line.strip_prefix(sign));
        lines.collect::<Vec<_>>().join("\n")
    };
    let blocks = text.split("\n== ").skip(1);
    let edits = blocks.map(|block| {
        let mut lines = block.lines();
        let title = lines.next().unwrap().to_owned();
        let (file, model) = lines.next().unwrap().split_once(' ').unwrap();
        let (file, model) = (file.to_owned(), model.to_owned());
        let (search, replace) = (lines_of(block, "-"), lines_of(block, "+"));
        Edit { title, model, file, search, replace, has_place: false }
    });
    edits.collect()
}
