//! The conversations of tests/testkit/, whose README.md explains them.

use crate::{file, patient, read};
use qdrop::wire::receipt::Receipt;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What goes wrong in a conversation: a step, and what came in place of what was expected.
pub type Wrong = String;

/// The files of tests/testkit/ that have conversations.
pub const TOPICS: [&str; 4] = ["names", "dialects", "receipts", "lists"];

#[derive(Clone, Debug, Default)]
pub struct Conversation {
    pub title: String,
    /// The programs that play a part in it, with their options, and what else is told in front of the steps.
    keys: BTreeMap<String, String>,
    /// What the sender has, what the drop directory has before, and what it has at the end.
    pub source: Vec<TestFile>,
    pub before: Vec<TestFile>,
    pub disk: Vec<TestFile>,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TestFile {
    pub name: String,
    pub content: Vec<u8>,
    /// Milliseconds since 1970, if that matters.
    pub modified: Option<i64>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The steps from here on are those of this connection.
    Connection(usize),
    /// The sender writes this at once, line by line of the file.
    Sender(Vec<Vec<u8>>),
    /// The receiver has read all that was written.
    UntilRead,
    SenderEnds,
    /// The sender resets its connection, of which it has not read everything.
    SenderAborts,
    Receiver(Vec<Token>),
    ReceiverEnds,
    ReceiverAborts,
    /// It is killed, and another one is started.
    ReceiverKilled,
}

/// A part of what a receiver writes.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Bytes(Vec<u8>),
    /// A `QString` for a person, in which these words are.
    Words(String),
}

/// Every conversation of a topic.
pub fn conversations(topic: &str) -> Vec<Conversation> {
    let page = read(&format!("tests/testkit/{topic}.txt"));
    let mut all: Vec<Conversation> = Vec::new();
    // What the lines belong to.
    let mut section = String::new();
    for line in page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some(title) = line.strip_prefix("== ") {
            all.push(Conversation { title: title.to_owned(), ..Conversation::default() });
            continue;
        }
        let it = all.last_mut().unwrap_or_else(|| panic!("{topic}: {line}"));
        match line.split_once(':') {
            Some((key, value)) if key.bytes().all(|byte| byte.is_ascii_lowercase()) => {
                key.clone_into(&mut section);
                it.begin(key, value.trim());
            }
            _ => it.add(&section, line),
        }
    }
    all
}

impl Conversation {
    /// Takes the line with which a section begins, or which is a step or a key.
    fn begin(&mut self, key: &str, value: &str) {
        self.steps.push(match (key, value) {
            ("sender", "") => Step::Sender(Vec::new()),
            ("sender", "until read") => Step::UntilRead,
            ("sender", "ends") => Step::SenderEnds,
            ("sender", "aborts") => Step::SenderAborts,
            ("receiver", "") => Step::Receiver(Vec::new()),
            ("receiver", "ends") => Step::ReceiverEnds,
            ("receiver", "aborts") => Step::ReceiverAborts,
            ("receiver", "is killed") => Step::ReceiverKilled,
            ("connection", number) => Step::Connection(number.parse().unwrap()),
            ("source" | "before" | "disk", "") => return,
            ("qdropd" | "qdrop" | "class" | "outcome" | "wire", _) => {
                self.keys.insert(key.to_owned(), value.to_owned());
                return;
            }
            _ => panic!("{}: {key}: {value}", self.title),
        });
    }

    /// Takes a line of a section.
    fn add(&mut self, section: &str, line: &str) {
        match (section, self.steps.last_mut()) {
            ("source", _) => self.source.push(TestFile::parse(line)),
            ("before", _) => self.before.push(TestFile::parse(line)),
            ("disk", _) => self.disk.push(TestFile::parse(line)),
            ("sender", Some(Step::Sender(lines))) => {
                let [Token::Bytes(bytes)] = &tokens(line)[..] else { panic!("{line}") };
                lines.push(bytes.clone());
            }
            ("receiver", Some(Step::Receiver(all))) => all.extend(tokens(line)),
            _ => panic!("{}: {line}", self.title),
        }
    }

    /// The options with which a program plays its part, if it does.
    pub fn options(&self, program: &str) -> Option<Vec<&str>> {
        self.keys.get(program).map(|options| options.split_whitespace().collect())
    }

    /// What the dissector says that is wrong, if anything is.
    pub fn wire(&self) -> Option<&str> {
        self.keys.get("wire").map(String::as_str)
    }

    /// What the sender is to say of each of its files.
    pub fn outcomes(&self) -> Vec<&str> {
        self.keys["outcome"].split(", ").collect()
    }

    /// Expects that outcome of every file.
    pub fn expect_outcome(&mut self, outcome: &str) {
        let outcomes = vec![outcome; self.source.len()].join(", ");
        self.keys.insert("outcome".to_owned(), outcomes);
    }

    /// The first header, without the body that follows.
    pub fn header(&self) -> Vec<u8> {
        let first = self.steps.iter().find_map(|step| match step {
            Step::Sender(lines) => Some(lines),
            _ => None,
        });
        let (_, header) = first.unwrap().split_last().unwrap();
        header.concat()
    }

    /// What the receipts say, in order. Of what begins as no receipt nothing is known.
    pub fn receipts(&self) -> Vec<Receipt> {
        let mut all = Vec::new();
        for step in &self.steps {
            let Step::Receiver(expected) = step else { continue };
            let bytes = written(expected);
            let mut rest = &bytes[..];
            while let Ok(Some(receipt)) = Receipt::read(&mut rest) {
                all.push(receipt);
            }
        }
        all
    }

    /// Makes the files of the sender, and returns their paths.
    pub fn make_source(&self, directory: &Path) -> Vec<PathBuf> {
        make_files(&self.source, directory)
    }

    /// Plays the receiver's part. The sender is the one that is tested. After the first step that goes wrong nobody
    /// listens any more.
    ///
    /// # Errors
    /// Fails if the sender writes anything else.
    pub fn receive(&self, listener: TcpListener) -> Result<(), Wrong> {
        let mut streams = BTreeMap::new();
        let mut number = 1;
        for step in &self.steps {
            if let Step::Connection(next) = step {
                number = *next;
                continue;
            }
            let mut stream =
                streams.entry(number).or_insert_with(|| patient(listener.accept().unwrap().0));
            match step {
                Step::Sender(lines) => expect(&mut stream, &lines.concat())?,
                Step::SenderEnds => expect_end(stream)?,
                Step::Receiver(expected) => {
                    stream.write_all(&written(expected)).map_err(|error| error.to_string())?;
                }
                Step::ReceiverEnds => _ = stream.shutdown(Shutdown::Write),
                // Without what was not read it is no reset.
                Step::ReceiverAborts => {
                    stream.peek(&mut [0]).map_err(|error| error.to_string())?;
                    streams.remove(&number);
                }
                Step::UntilRead => {}
                other => return Err(format!("no sender can be shown {other:?}")),
            }
        }
        Ok(())
    }
}

impl TestFile {
    fn parse(line: &str) -> Self {
        let mut fields = line.split(" | ");
        let (name, bytes) = (fields.next().unwrap().to_owned(), fields.next().unwrap());
        let content = match &tokens(bytes)[..] {
            [] => Vec::new(),
            [Token::Bytes(bytes)] => bytes.clone(),
            other => panic!("{other:?}"),
        };
        Self { name, content, modified: fields.next().map(|time| time.parse().unwrap()) }
    }

    /// The time that it is to have, if that matters.
    fn time(&self) -> Option<SystemTime> {
        let since = |time: i64| Duration::from_millis(time.try_into().unwrap());
        self.modified.map(|time| SystemTime::UNIX_EPOCH + since(time))
    }
}

/// Makes files in a directory, and returns their paths.
pub fn make_files(files: &[TestFile], directory: &Path) -> Vec<PathBuf> {
    let make = |it: &TestFile| {
        let path = file(directory, &it.name, &it.content);
        let open = File::options().write(true).open(&path).unwrap();
        it.time().into_iter().for_each(|time| open.set_modified(time).unwrap());
        path
    };
    files.iter().map(make).collect()
}

/// Compares the files of a directory, but for the receiver's own.
///
/// # Errors
/// Fails if there are others, or if one has another time.
pub fn expect_files(files: &[TestFile], directory: &Path) -> Result<(), Wrong> {
    let expected = files.iter().map(|it| (it.name.clone(), it.content.clone())).collect();
    equal("the drop directory has", &crate::arrived(directory), &expected)?;
    for it in files.iter().filter(|it| it.modified.is_some()) {
        let time = fs::metadata(directory.join(&it.name)).unwrap().modified().unwrap();
        equal(&it.name, &time, &it.time().unwrap())?;
    }
    Ok(())
}

/// Reads the bytes of a line: in hexadecimal, `00*1000` for a thousand of one value, and `{words}`. Two spaces begin
/// the comment.
fn tokens(line: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = line.split("  ").next().unwrap();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('{') {
            let (words, after) = inner.split_once('}').unwrap_or_else(|| panic!("{line}"));
            tokens.push(Token::Words(words.to_owned()));
            rest = after.trim_start();
            continue;
        }
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        let (byte, times) = word.split_once('*').unwrap_or((word, "1"));
        let byte = u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2);
        let byte = byte.unwrap_or_else(|| panic!("no byte {word:?}: {line}"));
        let bytes = vec![byte; times.parse().unwrap()];
        match tokens.last_mut() {
            Some(Token::Bytes(before)) => before.extend(bytes),
            _ => tokens.push(Token::Bytes(bytes)),
        }
        rest = after;
    }
    tokens
}

/// What a receiver writes that has these words for a person.
pub fn written(expected: &[Token]) -> Vec<u8> {
    let bytes = |token: &Token| match token {
        Token::Bytes(bytes) => bytes.clone(),
        Token::Words(words) => crate::qstring(words),
    };
    expected.iter().flat_map(bytes).collect()
}

/// Reads what is expected, and no more.
///
/// # Errors
/// Fails if something else comes, or less.
pub fn expect(stream: &mut impl Read, expected: &[u8]) -> Result<(), Wrong> {
    let mut come = Vec::new();
    // Of what is cut, what came says more than the error.
    let end = stream.take(expected.len() as u64).read_to_end(&mut come);
    if come == expected {
        return Ok(());
    }
    Err(format!("expected {expected:02x?}\n     came {come:02x?} ({end:?})"))
}

/// Waits for the end of a stream.
///
/// # Errors
/// Fails if something comes before it.
pub fn expect_end(stream: &mut impl Read) -> Result<(), Wrong> {
    let mut come = Vec::new();
    // A program that has its receipt may throw the connection away.
    let end = stream.read_to_end(&mut come);
    equal("before the end came", &come, &Vec::new()).map_err(|wrong| format!("{wrong} ({end:?})"))
}

/// Fails if something is not what was expected.
///
/// # Errors
/// See there.
pub fn equal<T: Debug + PartialEq>(what: &str, come: &T, expected: &T) -> Result<(), Wrong> {
    match come == expected {
        true => Ok(()),
        false => Err(format!("{what}\n         {come:02x?}\nexpected {expected:02x?}")),
    }
}
