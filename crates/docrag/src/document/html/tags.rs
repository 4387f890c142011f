//! What a tag means for reading.

use html5ever::tokenizer::Tag;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Goes on with the line.
    Inline,
    /// Parts paragraphs.
    Block,
    Paragraph,
    Heading(u8),
    List,
    Item,
    Term,
    Definition,
    Table,
    RowGroup,
    Row,
    Cell,
    Pre,
    Title,
    Break,
    /// Stands alone and says nothing.
    Void,
    Dropped(Content),
}

/// How what is between the tags is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Markup,
    RawText,
    TextWithEntities,
    Script,
}

pub(super) fn kind(name: &str) -> Kind {
    match name {
        "p" => Kind::Paragraph,
        "h1" => Kind::Heading(1),
        "h2" => Kind::Heading(2),
        "h3" => Kind::Heading(3),
        "h4" => Kind::Heading(4),
        "h5" => Kind::Heading(5),
        "h6" => Kind::Heading(6),
        "ul" | "ol" | "dl" | "menu" | "dir" => Kind::List,
        "li" => Kind::Item,
        "dt" => Kind::Term,
        "dd" => Kind::Definition,
        "table" => Kind::Table,
        "thead" | "tbody" | "tfoot" => Kind::RowGroup,
        "tr" => Kind::Row,
        "td" | "th" => Kind::Cell,
        "pre" | "listing" | "xmp" => Kind::Pre,
        "title" => Kind::Title,
        "br" => Kind::Break,
        "hr" | "html" | "head" | "body" | "div" | "section" | "article" | "main" | "header" | "hgroup" | "aside"
        | "address" | "blockquote" | "center" | "details" | "summary" | "fieldset" | "legend" | "figure"
        | "figcaption" | "form" | "caption" | "search" => Kind::Block,
        "area" | "base" | "basefont" | "bgsound" | "col" | "embed" | "frame" | "img" | "input" | "link" | "meta"
        | "param" | "source" | "track" | "wbr" => Kind::Void,
        "script" => Kind::Dropped(Content::Script),
        "style" | "iframe" | "noembed" | "noframes" => Kind::Dropped(Content::RawText),
        "textarea" => Kind::Dropped(Content::TextWithEntities),
        "noscript" | "template" | "svg" | "nav" | "footer" | "object" | "canvas" | "audio" | "video" | "map"
        | "select" | "datalist" | "button" | "dialog" | "colgroup" => Kind::Dropped(Content::Markup),
        _ => Kind::Inline,
    }
}

impl Kind {
    /// Whether it ends a paragraph that is open.
    pub(super) fn closes_paragraph(self) -> bool {
        matches!(
            self,
            Self::Block
                | Self::Paragraph
                | Self::Heading(_)
                | Self::List
                | Self::Item
                | Self::Term
                | Self::Definition
                | Self::Table
                | Self::Pre
        )
    }
}

/// What an element's attributes say about it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Marks {
    /// Not shown, or not part of what the page says.
    pub(super) dropped: bool,
    /// A table of contents.
    pub(super) contents: bool,
    /// A note or a warning: its heading is no section's.
    pub(super) note: bool,
}

const DROPPED_CLASSES: [&str; 9] = [
    "navheader",
    "navfooter",
    "breadcrumb",
    "breadcrumbs",
    "headerlink",
    "id_link",
    "mw-editsection",
    "sphinxsidebar",
    "skip-link",
];
const NOTE_CLASSES: [&str; 7] = ["note", "tip", "important", "caution", "warning", "admonition", "sidebar"];

pub(super) fn marks(tag: &Tag) -> Marks {
    let mut marks = Marks::default();
    // A tag with thousands of attributes is an attack; nothing that matters comes so late.
    for attribute in tag.attrs.iter().take(64) {
        let value: &str = &attribute.value;
        match &*attribute.name.local {
            "hidden" => marks.dropped = true,
            "aria-hidden" => marks.dropped |= value == "true",
            "role" => {
                marks.dropped |= matches!(value, "navigation" | "search" | "contentinfo");
                marks.contents |= value == "doc-toc";
            }
            "style" => {
                let style: String =
                    value.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
                marks.dropped |= style.contains("display:none") || style.contains("visibility:hidden");
            }
            "class" => {
                for class in value.split_ascii_whitespace() {
                    marks.dropped |= DROPPED_CLASSES.contains(&class);
                    marks.contents |= class == "toc";
                    marks.note |= NOTE_CLASSES.contains(&class);
                }
            }
            "id" => marks.contents |= value == "toc",
            _ => {}
        }
    }
    marks
}
