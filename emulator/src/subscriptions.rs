//! The subscription index: a trie over topic levels, so that a publish visits its matches only.

use std::collections::HashMap;

use paquebot_protocols::mqtt::{QoS, Subscription, Topic, TopicFilter};

use crate::sessions::SessionKey;

/// What a session asked for with one filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SubscriptionOptions {
    /// The granted QoS.
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) identifier: Option<u32>,
}

impl SubscriptionOptions {
    pub(crate) fn new(wanted: &Subscription, granted: QoS, identifier: Option<u32>) -> Self {
        Self {
            qos: granted,
            no_local: wanted.no_local,
            retain_as_published: wanted.retain_as_published,
            identifier,
        }
    }
}

/// One session that a topic matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Match {
    pub(crate) session: SessionKey,
    pub(crate) options: SubscriptionOptions,
    /// Through a shared subscription: delivered on its own, not merged with the session's others.
    pub(crate) shared: bool,
}

#[derive(Debug)]
pub(crate) struct Subscriptions {
    root: Node,
    count: usize,
    /// Whether `a/#` matches `a` as well.
    multi_matches_parent: bool,
}

#[derive(Debug, Default)]
struct Node {
    literal: HashMap<Box<str>, Node>,
    single: Option<Box<Node>>,
    /// Subscriptions whose filter ends here.
    here: Subscribers,
    /// Subscriptions whose filter goes on with `#` only.
    multi: Subscribers,
}

#[derive(Debug, Default)]
struct Subscribers {
    own: Vec<(SessionKey, SubscriptionOptions)>,
    groups: Vec<Group>,
}

/// The sessions that share one filter under one share name, and whose turn it is.
#[derive(Debug)]
struct Group {
    name: Box<str>,
    members: Vec<(SessionKey, SubscriptionOptions)>,
    turn: usize,
}

impl Subscriptions {
    pub(crate) fn new(multi_matches_parent: bool) -> Self {
        Self {
            root: Node::default(),
            count: 0,
            multi_matches_parent,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Adds or replaces; returns whether the subscription is new.
    pub(crate) fn insert(
        &mut self,
        filter: &TopicFilter,
        session: SessionKey,
        options: SubscriptionOptions,
    ) -> bool {
        let (group, filter) = split(filter);
        let mut node = &mut self.root;
        let mut levels = filter.split('/').peekable();
        let subscribers = loop {
            match levels.next() {
                None => break &mut node.here,
                Some("#") if levels.peek().is_none() => break &mut node.multi,
                Some("+") => node = node.single.get_or_insert_default(),
                Some(level) => {
                    // Looked up twice, so that only a new level is copied.
                    if !node.literal.contains_key(level) {
                        node.literal.insert(level.into(), Node::default());
                    }
                    match node.literal.get_mut(level) {
                        Some(child) => node = child,
                        None => return false,
                    }
                }
            }
        };
        let is_new = subscribers.insert(group, session, options);
        self.count += usize::from(is_new);
        is_new
    }

    /// Returns whether there was one.
    pub(crate) fn remove(&mut self, filter: &TopicFilter, session: SessionKey) -> bool {
        let (group, filter) = split(filter);
        let levels: Vec<&str> = filter.split('/').collect();
        let removed = self.root.remove(&levels, group, session);
        self.count -= usize::from(removed);
        removed
    }

    /// Appends every subscription that `topic` matches; of a shared one the member whose turn it is,
    /// preferring those that `is_online`.
    pub(crate) fn find(
        &mut self,
        topic: &Topic,
        is_online: &dyn Fn(SessionKey) -> bool,
        found: &mut Vec<Match>,
    ) {
        let topic = topic.as_str();
        // A wildcard in the first level matches no topic that begins with `$` [MQTT-4.7.2-1].
        let wildcards = !topic.starts_with('$');
        let mut search = Search {
            multi_matches_parent: self.multi_matches_parent,
            is_online,
            found,
        };
        self.root.find(Some(topic), wildcards, &mut search);
    }
}

fn split(filter: &TopicFilter) -> (Option<&str>, &str) {
    match filter.shared() {
        Some(shared) => (Some(shared.group), shared.filter),
        None => (None, filter.as_str()),
    }
}

/// What stays the same on the way down.
struct Search<'a> {
    multi_matches_parent: bool,
    is_online: &'a dyn Fn(SessionKey) -> bool,
    found: &'a mut Vec<Match>,
}

impl Node {
    /// `rest` is what is left of the topic: `None` behind its last level.
    fn find(&mut self, rest: Option<&str>, wildcards: bool, search: &mut Search<'_>) {
        // `#` matches its parent level too (§4.7.1.2), unless the limits say otherwise.
        if wildcards && (rest.is_some() || search.multi_matches_parent) {
            self.multi.collect(search.is_online, search.found);
        }
        let Some(rest) = rest else {
            self.here.collect(search.is_online, search.found);
            return;
        };
        let (level, rest) = match rest.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (rest, None),
        };
        if let Some(child) = self.literal.get_mut(level) {
            child.find(rest, true, search);
        }
        if wildcards && let Some(child) = &mut self.single {
            child.find(rest, true, search);
        }
    }

    fn remove(&mut self, levels: &[&str], group: Option<&str>, session: SessionKey) -> bool {
        match levels {
            [] => self.here.remove(group, session),
            ["#"] => self.multi.remove(group, session),
            ["+", rest @ ..] => {
                let Some(child) = &mut self.single else {
                    return false;
                };
                let removed = child.remove(rest, group, session);
                if child.is_empty() {
                    self.single = None;
                }
                removed
            }
            [level, rest @ ..] => {
                let Some(child) = self.literal.get_mut(*level) else {
                    return false;
                };
                let removed = child.remove(rest, group, session);
                if child.is_empty() {
                    self.literal.remove(*level);
                }
                removed
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.literal.is_empty()
            && self.single.is_none()
            && self.here.is_empty()
            && self.multi.is_empty()
    }
}

impl Subscribers {
    fn insert(
        &mut self,
        group: Option<&str>,
        session: SessionKey,
        options: SubscriptionOptions,
    ) -> bool {
        let members = match group {
            None => &mut self.own,
            Some(name) => {
                let index = self.groups.iter().position(|group| *group.name == *name);
                let index = index.unwrap_or_else(|| {
                    self.groups.push(Group {
                        name: name.into(),
                        members: Vec::new(),
                        turn: 0,
                    });
                    self.groups.len() - 1
                });
                &mut self.groups[index].members
            }
        };
        match members.iter_mut().find(|(key, _)| *key == session) {
            Some((_, present)) => {
                *present = options;
                false
            }
            None => {
                members.push((session, options));
                true
            }
        }
    }

    fn remove(&mut self, group: Option<&str>, session: SessionKey) -> bool {
        let Some(name) = group else {
            return take_member(&mut self.own, session);
        };
        let Some(index) = self.groups.iter().position(|group| *group.name == *name) else {
            return false;
        };
        let removed = take_member(&mut self.groups[index].members, session);
        if self.groups[index].members.is_empty() {
            self.groups.swap_remove(index);
        }
        removed
    }

    fn collect(&mut self, is_online: &dyn Fn(SessionKey) -> bool, found: &mut Vec<Match>) {
        found.extend(self.own.iter().map(|&(session, options)| Match {
            session,
            options,
            shared: false,
        }));
        found.extend(
            self.groups
                .iter_mut()
                .filter_map(|group| group.choose(is_online)),
        );
    }

    fn is_empty(&self) -> bool {
        self.own.is_empty() && self.groups.is_empty()
    }
}

fn take_member(members: &mut Vec<(SessionKey, SubscriptionOptions)>, session: SessionKey) -> bool {
    let before = members.len();
    members.retain(|(key, _)| *key != session);
    members.len() < before
}

impl Group {
    /// Round robin over the connected members; over all of them when none is.
    fn choose(&mut self, is_online: &dyn Fn(SessionKey) -> bool) -> Option<Match> {
        let count = self.members.len();
        let in_turn = (0..count).map(|offset| (self.turn + offset) % count);
        let index = in_turn
            .clone()
            .find(|index| is_online(self.members[*index].0))
            .or_else(|| in_turn.clone().next())?;
        self.turn = (index + 1) % count;
        let (session, options) = self.members[index];
        Some(Match {
            session,
            options,
            shared: true,
        })
    }
}
