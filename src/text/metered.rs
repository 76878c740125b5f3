//! Renders templates so that the work on lists costs fuel.
//!
//! minijinja's fuel pays for instructions and for text, but not for the lists inside of a list that is compared or printed.
//! `{% set a = [a, a] %}`, forty times, is cheap, but the result has more elements than any memory can hold; and lists that
//! are nested thousands deep overflow the stack. So each expression whose value is compared, printed, joined or put into
//! another list is passed through a function first, which consumes fuel for everything in it and refuses what is nested too
//! deep. Templates cannot name these functions.

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, State, Value,
    machinery::{
        self, CodeGenerator, Span, Token,
        ast::{self, BinOpKind, CallArg, Expr, Spanned, Stmt, UnaryOpKind},
    },
    value::ValueKind,
};

/// Bytes of text that one unit of fuel pays for, as everywhere in minijinja.
pub(super) const BYTES_PER_FUEL: u64 = 64;

/// The name of the template in errors.
const NAME: &str = "<string>";
/// The function that consumes fuel for the values in a list, and refuses a list that is nested too deep.
const WEIGH: &str = "(weigh)";
/// The same, with fuel for the text of the values too, because all of it may be compared or copied.
const MEASURE: &str = "(measure)";
/// Most levels of lists within lists. A conversation has two.
const MAX_DEPTH: usize = 32;
/// Most tokens of one tag. The longest known tag has 62.
const MAX_TOKENS: usize = 512;
/// Most `elif` of a template. The known templates have at most 20.
const MAX_BRANCHES: usize = 128;
/// Filters and methods that do not read the values in a list, but only take or count them.
const SHALLOW: [&str; 12] = [
    "count", "d", "default", "first", "get", "items", "keys", "last", "length", "list", "reverse", "values",
];
/// Tests of whether a value exists. They need the value itself, not the result of a function.
const PRESENCE: [&str; 2] = ["defined", "undefined"];

/// Adds the functions that [`render`] needs.
pub(super) fn add_functions(environment: &mut Environment<'_>) {
    environment.add_function(WEIGH, |state: &State<'_, '_>, value: Value| {
        pay(state, &value, Price::Values).map(|()| value)
    });
    environment.add_function(MEASURE, |state: &State<'_, '_>, value: Value| {
        pay(state, &value, Price::Text).map(|()| value)
    });
}

/// Checks that a template can be parsed, and that none of its expressions is so long that evaluating it could overflow the
/// stack.
pub(super) fn check(environment: &Environment<'_>, source: &str) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::new(ErrorKind::SyntaxError, reason));
    let (mut tokens, mut branches) = (0, 0);
    for token in machinery::tokenize(source, false, environment.syntax().clone()) {
        match token?.0 {
            Token::BlockStart | Token::VariableStart => tokens = 0,
            Token::Ident("elif") => branches += 1,
            _ => tokens += 1,
        }
        if tokens > MAX_TOKENS {
            return refuse(format!("a tag has more than {MAX_TOKENS} words and signs"));
        }
        if branches > MAX_BRANCHES {
            return refuse(format!("there are more than {MAX_BRANCHES} times `elif`"));
        }
    }
    machinery::parse(source, NAME, environment.syntax().clone()).map(|_| ())
}

/// Renders a template with these values.
pub(super) fn render<'a>(
    environment: &'a Environment<'a>,
    source: &'a str,
    values: Value,
) -> Result<String, Error> {
    let template = machinery::parse(source, NAME, environment.syntax().clone())?;
    let template = statement(&template);
    let mut generator = CodeGenerator::new(NAME, source);
    generator.compile_stmt(&template);
    let (instructions, blocks) = generator.finish();
    let mut text = String::new();
    machinery::eval(
        environment,
        &instructions,
        values,
        &blocks,
        &mut machinery::make_string_output(&mut text),
        AutoEscape::None,
    )?;
    Ok(text)
}

/// What fuel is consumed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Price {
    /// Each value in a list, in the lists in it, and so on.
    Values,
    /// Each value, and its text.
    Text,
}

/// Consumes fuel for a list or a map. Other values cost nothing here.
pub(super) fn pay(state: &State<'_, '_>, value: &Value, price: Price) -> Result<(), Error> {
    let mut open = Vec::new();
    open.extend(members(value));
    while let Some((map, values)) = open.last_mut() {
        let Some(member) = values.next() else {
            open.pop();
            continue;
        };
        // The members of a map are its keys.
        let held = map.as_ref().and_then(|map| map.get_item(&member).ok());
        for member in [Some(member), held].into_iter().flatten() {
            let text = match (price, member.as_str()) {
                (Price::Text, Some(text)) => text.len() as u64 / BYTES_PER_FUEL,
                _ => 0,
            };
            state.consume_fuel(1 + text)?;
            open.extend(members(&member));
        }
        if open.len() > MAX_DEPTH {
            return Err(Error::from(ErrorKind::OutOfFuel));
        }
    }
    Ok(())
}

type Members = (Option<Value>, minijinja::value::ValueIter);

fn members(value: &Value) -> Option<Members> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => Some((None, value.try_iter().ok()?)),
        ValueKind::Map => Some((Some(value.clone()), value.try_iter().ok()?)),
        _ => None,
    }
}

fn statements<'a>(statements: &[Stmt<'a>]) -> Vec<Stmt<'a>> {
    statements.iter().map(statement).collect()
}

fn statement<'a>(node: &Stmt<'a>) -> Stmt<'a> {
    match node {
        Stmt::Template(s) => Stmt::Template(at(
            s,
            ast::Template {
                children: statements(&s.children),
            },
        )),
        // Fuel for what is printed is consumed when it is printed.
        Stmt::EmitExpr(s) => Stmt::EmitExpr(at(
            s,
            ast::EmitExpr {
                expr: expression(&s.expr),
            },
        )),
        Stmt::EmitRaw(s) => Stmt::EmitRaw(at(s, ast::EmitRaw { raw: s.raw })),
        Stmt::ForLoop(s) => Stmt::ForLoop(at(
            s,
            ast::ForLoop {
                target: target(&s.target),
                iter: expression(&s.iter),
                filter_expr: s.filter_expr.as_ref().map(expression),
                recursive: s.recursive,
                body: statements(&s.body),
                else_body: statements(&s.else_body),
            },
        )),
        Stmt::IfCond(s) => Stmt::IfCond(at(
            s,
            ast::IfCond {
                expr: expression(&s.expr),
                true_body: statements(&s.true_body),
                false_body: statements(&s.false_body),
            },
        )),
        Stmt::WithBlock(s) => Stmt::WithBlock(at(
            s,
            ast::WithBlock {
                assignments: s
                    .assignments
                    .iter()
                    .map(|(to, value)| (target(to), expression(value)))
                    .collect(),
                body: statements(&s.body),
            },
        )),
        Stmt::Set(s) => Stmt::Set(at(
            s,
            ast::Set {
                target: target(&s.target),
                expr: match s.target {
                    // The target is in a namespace, which is a map.
                    Expr::GetAttr(_) => through(WEIGH, &s.expr),
                    _ => expression(&s.expr),
                },
            },
        )),
        Stmt::SetBlock(s) => Stmt::SetBlock(at(
            s,
            ast::SetBlock {
                target: target(&s.target),
                filter: s.filter.as_ref().map(expression),
                body: statements(&s.body),
            },
        )),
        Stmt::AutoEscape(s) => Stmt::AutoEscape(at(
            s,
            ast::AutoEscape {
                enabled: expression(&s.enabled),
                body: statements(&s.body),
            },
        )),
        Stmt::FilterBlock(s) => Stmt::FilterBlock(at(
            s,
            ast::FilterBlock {
                filter: expression(&s.filter),
                filter_span: s.filter_span,
                body: statements(&s.body),
            },
        )),
        Stmt::Macro(s) => Stmt::Macro(declaration(s)),
        Stmt::CallBlock(s) => Stmt::CallBlock(at(
            s,
            ast::CallBlock {
                call: call(&s.call),
                call_expr_span: s.call_expr_span,
                macro_decl: declaration(&s.macro_decl),
            },
        )),
        Stmt::Continue(s) => Stmt::Continue(at(s, ast::Continue)),
        Stmt::Break(s) => Stmt::Break(at(s, ast::Break)),
        Stmt::Do(s) => Stmt::Do(at(s, ast::Do { call: call(&s.call) })),
    }
}

fn declaration<'a>(node: &Spanned<ast::Macro<'a>>) -> Spanned<ast::Macro<'a>> {
    at(
        node,
        ast::Macro {
            name: node.name,
            args: node.args.iter().map(target).collect(),
            defaults: node.defaults.iter().map(expression).collect(),
            body: statements(&node.body),
        },
    )
}

/// The target of an assignment: names, alone or in lists, and attributes of a namespace.
fn target<'a>(node: &Expr<'a>) -> Expr<'a> {
    let targets = |items: &[Expr<'a>]| items.iter().map(target).collect();
    match node {
        Expr::List(e) => Expr::List(at(
            e,
            ast::List {
                items: targets(&e.items),
            },
        )),
        Expr::Tuple(e) => Expr::Tuple(at(
            e,
            ast::Tuple {
                items: targets(&e.items),
            },
        )),
        other => expression(other),
    }
}

/// The expression, passed through one of the functions unless its value is certainly no list.
fn through<'a>(function: &'static str, node: &Expr<'a>) -> Expr<'a> {
    let expr = expression(node);
    match &expr {
        Expr::Const(_) => expr,
        // The value is always a text. Passing it through the function would cost fuel for the text that the function returns.
        Expr::BinOp(text) if matches!(text.op, BinOpKind::Concat) => expr,
        _ => {
            let span = node.span();
            let call = ast::Call {
                expr: Expr::Var(Spanned::new(ast::Var { id: function }, span)),
                args: vec![CallArg::Pos(expr)],
            };
            Expr::Call(Spanned::new(call, span))
        }
    }
}

fn by(name: &str) -> &'static str {
    match SHALLOW.contains(&name) {
        true => WEIGH,
        false => MEASURE,
    }
}

fn expression<'a>(node: &Expr<'a>) -> Expr<'a> {
    if let Some(value) = node.as_const() {
        return Expr::Const(Spanned::new(ast::Const { value }, node.span()));
    }
    let all = |function, items: &[Expr<'a>]| items.iter().map(|item| through(function, item)).collect();
    let maybe = |node: &Option<Expr<'a>>| node.as_ref().map(expression);
    match node {
        Expr::Var(e) => Expr::Var(at(e, ast::Var { id: e.id })),
        Expr::Const(e) => Expr::Const(at(
            e,
            ast::Const {
                value: e.value.clone(),
            },
        )),
        Expr::Slice(e) => Expr::Slice(at(
            e,
            ast::Slice {
                expr: expression(&e.expr),
                start: maybe(&e.start),
                stop: maybe(&e.stop),
                step: maybe(&e.step),
            },
        )),
        Expr::UnaryOp(e) => Expr::UnaryOp(at(
            e,
            ast::UnaryOp {
                op: match e.op {
                    UnaryOpKind::Not => UnaryOpKind::Not,
                    UnaryOpKind::Neg => UnaryOpKind::Neg,
                },
                expr: expression(&e.expr),
            },
        )),
        Expr::BinOp(e) => {
            let function = match e.op {
                BinOpKind::ScAnd | BinOpKind::ScOr => None,
                // Lists are joined without reading their values.
                BinOpKind::Add | BinOpKind::Mul => Some(WEIGH),
                _ => Some(MEASURE),
            };
            let operand =
                |node| function.map_or_else(|| expression(node), |function| through(function, node));
            Expr::BinOp(at(
                e,
                ast::BinOp {
                    op: e.op,
                    left: operand(&e.left),
                    right: operand(&e.right),
                },
            ))
        }
        Expr::Compare(e) => Expr::Compare(at(
            e,
            ast::Compare {
                expr: through(MEASURE, &e.expr),
                ops: e
                    .ops
                    .iter()
                    .map(|op| ast::CompareOp {
                        op: op.op,
                        expr: through(MEASURE, &op.expr),
                    })
                    .collect(),
            },
        )),
        Expr::IfExpr(e) => Expr::IfExpr(at(
            e,
            ast::IfExpr {
                test_expr: expression(&e.test_expr),
                true_expr: expression(&e.true_expr),
                false_expr: maybe(&e.false_expr),
            },
        )),
        Expr::Filter(e) => Expr::Filter(at(
            e,
            ast::Filter {
                name: e.name,
                expr: e.expr.as_ref().map(|expr| through(by(e.name), expr)),
                args: arguments(by(e.name), &e.args),
            },
        )),
        Expr::Test(e) => Expr::Test(at(
            e,
            ast::Test {
                name: e.name,
                expr: match PRESENCE.contains(&e.name) {
                    true => expression(&e.expr),
                    false => through(WEIGH, &e.expr),
                },
                args: arguments(MEASURE, &e.args),
            },
        )),
        Expr::GetAttr(e) => Expr::GetAttr(at(
            e,
            ast::GetAttr {
                expr: expression(&e.expr),
                name: e.name,
            },
        )),
        Expr::GetItem(e) => Expr::GetItem(at(
            e,
            ast::GetItem {
                expr: expression(&e.expr),
                subscript_expr: through(MEASURE, &e.subscript_expr),
            },
        )),
        Expr::Call(e) => Expr::Call(call(e)),
        Expr::List(e) => Expr::List(at(
            e,
            ast::List {
                items: all(WEIGH, &e.items),
            },
        )),
        Expr::Tuple(e) => Expr::Tuple(at(
            e,
            ast::Tuple {
                items: all(WEIGH, &e.items),
            },
        )),
        Expr::Map(e) => Expr::Map(at(
            e,
            ast::Map {
                keys: all(MEASURE, &e.keys),
                values: all(WEIGH, &e.values),
            },
        )),
    }
}

fn call<'a>(node: &Spanned<ast::Call<'a>>) -> Spanned<ast::Call<'a>> {
    let (expr, function) = match &node.expr {
        // A method, whose work is not known. `loop` must stay accessible by its name.
        Expr::GetAttr(method) if !matches!(&method.expr, Expr::Var(var) if var.id == "loop") => {
            let function = by(method.name);
            let object = ast::GetAttr {
                expr: through(function, &method.expr),
                name: method.name,
            };
            (Expr::GetAttr(at(method, object)), function)
        }
        other => (expression(other), MEASURE),
    };
    at(
        node,
        ast::Call {
            expr,
            args: arguments(function, &node.args),
        },
    )
}

fn arguments<'a>(function: &'static str, arguments: &[CallArg<'a>]) -> Vec<CallArg<'a>> {
    let argument = |argument: &CallArg<'a>| match argument {
        CallArg::Pos(expr) => CallArg::Pos(through(function, expr)),
        CallArg::Kwarg(name, expr) => CallArg::Kwarg(name, through(function, expr)),
        CallArg::PosSplat(expr) => CallArg::PosSplat(through(function, expr)),
        CallArg::KwargSplat(expr) => CallArg::KwargSplat(through(function, expr)),
    };
    arguments.iter().map(argument).collect()
}

/// A node with the position of another.
fn at<T, U>(node: &Spanned<T>, instead: U) -> Spanned<U> {
    let span: Span = node.span();
    Spanned::new(instead, span)
}
