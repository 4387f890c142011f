//! The conditions of a statement on the columns of one table.

use super::TableShape;
use sqlparser::ast::{
    BinaryOperator, Expr, FromTable, Ident, Join, JoinConstraint, JoinOperator, ObjectName, OrderByKind, OrderBySort,
    Query, Select, SetExpr, Statement, TableFactor, TableWithJoins, Visit, Visitor, visit_expressions,
};
use std::ops::ControlFlow;

/// What an index could serve, by column.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) equal: Vec<String>,
    pub(super) range: Vec<String>,
    /// What a LIMIT takes the first of.
    pub(super) order: Vec<String>,
}

/// One for each part of the statement that reads the table.
pub(super) fn wishes(statement: &Statement, shape: &TableShape) -> Vec<Wish> {
    let mut reader = Reader { shape, wishes: Vec::new() };
    match statement {
        Statement::Update(update) => reader.part(std::slice::from_ref(&update.table), update.selection.as_ref(), &[]),
        Statement::Delete(delete) => {
            let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
            reader.part(from, delete.selection.as_ref(), &[]);
        }
        _ => {}
    }
    let _ = statement.visit(&mut reader);
    reader.wishes
}

struct Reader<'a> {
    shape: &'a TableShape,
    wishes: Vec<Wish>,
}

impl Visitor for Reader<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let SetExpr::Select(select) = query.body.as_ref()
            && (query.limit_clause.is_some() || query.fetch.is_some())
        {
            self.part(&select.from, select.selection.as_ref(), &order(query));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.part(&select.from, select.selection.as_ref(), &[]);
        ControlFlow::Continue(())
    }
}

impl Reader<'_> {
    fn part(&mut self, from: &[TableWithJoins], selection: Option<&Expr>, order: &[&Expr]) {
        let names: Vec<String> = from
            .iter()
            .flat_map(|item| std::iter::once(&item.relation).chain(item.joins.iter().map(|join| &join.relation)))
            .filter_map(|factor| self.known_as(factor))
            .collect();
        if names.is_empty() {
            return;
        }
        let scope = Scope { shape: self.shape, names: &names };
        let mut wish = Wish::default();
        let joined = from.iter().flat_map(|item| &item.joins).filter_map(on);
        selection.into_iter().chain(joined).for_each(|condition| scope.take(condition, &mut wish));
        let ordered: Option<Vec<String>> = order.iter().map(|expression| scope.column(expression)).collect();
        wish.order = ordered.unwrap_or_default();
        if wish != Wish::default() {
            self.wishes.push(wish);
        }
    }

    /// The name under which a part of FROM gives the table to the rest of the statement.
    fn known_as(&self, factor: &TableFactor) -> Option<String> {
        let TableFactor::Table { name, alias, args: None, .. } = factor else { return None };
        let ObjectName(parts) = name;
        let parts: Vec<String> = parts.iter().map(|part| part.as_ident().map(folded)).collect::<Option<_>>()?;
        let table = &self.shape.table;
        let is_it = match parts.as_slice() {
            [name] => *name == table.name,
            [schema, name] => *name == table.name && *schema == table.schema,
            _ => false,
        };
        is_it.then(|| alias.as_ref().map_or_else(|| table.name.clone(), |alias| folded(&alias.name)))
    }
}

/// Columns in one direction: a B-tree is read either way, but not this way for one column and that way for another.
fn order(query: &Query) -> Vec<&Expr> {
    let Some(OrderByKind::Expressions(list)) = query.order_by.as_ref().map(|order| &order.kind) else {
        return Vec::new();
    };
    let is_down = |sort: &Option<OrderBySort>| match sort {
        None | Some(OrderBySort::Asc) => Some(false),
        Some(OrderBySort::Desc) => Some(true),
        _ => None,
    };
    let downs: Option<Vec<bool>> = list.iter().map(|one| is_down(&one.options.sort)).collect();
    let is_one_way = downs.is_some_and(|downs| downs.windows(2).all(|pair| pair[0] == pair[1]));
    if is_one_way && list.iter().all(|one| one.options.nulls_first.is_none()) {
        list.iter().map(|one| &one.expr).collect()
    } else {
        Vec::new()
    }
}

/// The condition of a join. That of an outer one serves an index of the joined side as well.
fn on(join: &Join) -> Option<&Expr> {
    match &join.join_operator {
        JoinOperator::Join(JoinConstraint::On(condition))
        | JoinOperator::Inner(JoinConstraint::On(condition))
        | JoinOperator::Left(JoinConstraint::On(condition))
        | JoinOperator::LeftOuter(JoinConstraint::On(condition)) => Some(condition),
        _ => None,
    }
}

struct Scope<'a> {
    shape: &'a TableShape,
    names: &'a [String],
}

impl Scope<'_> {
    /// Takes the conditions that all must hold.
    fn take(&self, condition: &Expr, wish: &mut Wish) {
        match condition {
            Expr::Nested(inner) => self.take(inner, wish),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                self.take(left, wish);
                self.take(right, wish);
            }
            Expr::BinaryOp { left, op, right } => {
                let sides = [(left, right), (right, left)];
                let found = sides.into_iter().find_map(|(side, other)| Some((self.column(side)?, other)));
                let Some((column, _)) = found.filter(|(_, other)| self.is_given(other)) else { return };
                match op {
                    BinaryOperator::Eq => add(&mut wish.equal, column),
                    BinaryOperator::Lt | BinaryOperator::LtEq | BinaryOperator::Gt | BinaryOperator::GtEq => {
                        add(&mut wish.range, column);
                    }
                    _ => {}
                }
            }
            Expr::InList { expr, list, negated: false } => {
                if let Some(column) = self.column(expr).filter(|_| list.iter().all(|one| self.is_given(one))) {
                    add(&mut wish.equal, column);
                }
            }
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
                if let Some(column) = self.column(left).filter(|_| self.is_given(right)) {
                    add(&mut wish.equal, column);
                }
            }
            Expr::Between { expr, negated: false, low, high } => {
                if let Some(column) = self.column(expr).filter(|_| self.is_given(low) && self.is_given(high)) {
                    add(&mut wish.range, column);
                }
            }
            _ => {}
        }
    }

    /// A plain column of the table. One that is not qualified is the table's if it has one of that name: otherwise the
    /// server would have called it ambiguous.
    fn column(&self, expression: &Expr) -> Option<String> {
        let name = match expression {
            Expr::Nested(inner) => return self.column(inner),
            Expr::Identifier(name) => folded(name),
            Expr::CompoundIdentifier(parts) => {
                let [.., table, column] = parts.as_slice() else { return None };
                self.names.contains(&folded(table)).then(|| folded(column))?
            }
            _ => return None,
        };
        self.shape.columns.contains(&name).then_some(name)
    }

    /// Whether the value is known before a row of the table is.
    fn is_given(&self, expression: &Expr) -> bool {
        let found = visit_expressions(expression, |part: &Expr| {
            if self.column(part).is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        found.is_continue()
    }
}

fn add(list: &mut Vec<String>, column: String) {
    if !list.contains(&column) {
        list.push(column);
    }
}

/// The name as the server has it: in lower case unless it was quoted.
fn folded(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}
