// Renders Ollama's chat templates: one JSON request on standard input, one JSON reply on standard output.
//
// It does what Ollama does between a chat request and the text of its prompt: joins messages of one role, hands the
// template the values and functions that it knows, and renders templates without .Messages exchange by exchange.
// Standard library of Go 1.19 only.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
	"text/template/parse"
	"time"
)

type request struct {
	Template string         `json:"template"`
	Inputs   []conversation `json:"inputs"`
}

type conversation struct {
	Messages []message `json:"messages"`
	Tools    tools     `json:"tools"`
	Think    *bool     `json:"think"` // nil: the client does not say
}

type reply struct {
	Refused string     `json:"refused,omitempty"` // why the template cannot be read
	Prompts []rendered `json:"prompts"`
}

type rendered struct {
	Text  string `json:"text"`
	Error string `json:"error,omitempty"`
}

// What templates see. Names of fields and what they print as are Ollama's.

type message struct {
	Role       string
	Content    string
	Thinking   string
	Images     [][]byte
	ToolCalls  []toolCall
	ToolName   string
	ToolCallID string
}

type toolCall struct {
	ID       string
	Function struct {
		Index     int
		Name      string
		Arguments arguments
	}
}

// arguments are a plain map: whatever order they were given in, templates see them sorted by name.
type arguments map[string]any

func (a arguments) String() string {
	if a == nil {
		return "{}"
	}
	return asJSON(map[string]any(a))
}

type tools []tool

func (t tools) String() string { return asJSON([]tool(t)) }

type tool struct {
	Type     string `json:"type"`
	Items    any    `json:"items,omitempty"`
	Function struct {
		Name        string `json:"name"`
		Description string `json:"description"`
		Parameters  struct {
			Type       string     `json:"type"`
			Defs       any        `json:"$defs,omitempty"`
			Items      any        `json:"items,omitempty"`
			Required   []string   `json:"required,omitempty"`
			Properties properties `json:"properties"`
		} `json:"parameters"`
	} `json:"function"`
}

type properties map[string]property

func (p properties) String() string {
	if p == nil {
		return "{}"
	}
	return asJSON(map[string]property(p))
}

type property struct {
	AnyOf       []property `json:"anyOf,omitempty"`
	Type        types      `json:"type,omitempty"`
	Items       any        `json:"items,omitempty"`
	Description string     `json:"description,omitempty"`
	Enum        []any      `json:"enum,omitempty"`
	Properties  *ordered   `json:"properties,omitempty"`
	Required    []string   `json:"required,omitempty"`
}

// types of a property: one word, or several.
type types []string

func (t *types) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*t = types{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(t))
}

func (t types) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

func (t types) String() string {
	switch len(t) {
	case 0:
		return ""
	case 1:
		return t[0]
	}
	return fmt.Sprint([]string(t))
}

func (p property) typeScript() string {
	var names []string
	for _, other := range p.AnyOf {
		names = append(names, other.typeScript())
	}
	if names == nil {
		for _, name := range p.Type {
			if known, ok := map[string]string{
				"string": "string", "integer": "number", "number": "number", "boolean": "boolean",
				"array": "any[]", "object": "Record<string, any>", "null": "null",
			}[name]; ok {
				names = append(names, known)
			} else {
				names = append(names, "any")
			}
		}
	}
	if names == nil {
		return "any"
	}
	return strings.Join(names, " | ")
}

// ordered are properties within a property, which keep the order they were given in.
type ordered struct {
	names  []string
	values map[string]property
}

func (o *ordered) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, &o.values); err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if _, err := decoder.Token(); err != nil {
		return err
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return err
		}
		var skipped json.RawMessage
		if err := decoder.Decode(&skipped); err != nil {
			return err
		}
		o.names = append(o.names, fmt.Sprint(name))
	}
	return nil
}

func (o ordered) MarshalJSON() ([]byte, error) {
	var parts []string
	for _, name := range o.names {
		parts = append(parts, asJSON(name)+":"+asJSON(o.values[name]))
	}
	return []byte("{" + strings.Join(parts, ",") + "}"), nil
}

func asJSON(value any) string {
	data, _ := json.Marshal(value)
	return string(data)
}

func day(ago int) func(...string) string {
	return func(...string) string { return time.Now().AddDate(0, 0, -ago).Format("2006-01-02") }
}

var functions = template.FuncMap{
	"json":          asJSON,
	"currentDate":   day(0),
	"yesterdayDate": day(1),
	"toTypeScriptType": func(value any) string {
		switch p := value.(type) {
		case property:
			return p.typeScript()
		case *property:
			if p != nil {
				return p.typeScript()
			}
		}
		return "any"
	},
}

// chat is a template with what it asks for: whole conversations (messages) or one exchange at a time.
type chat struct {
	*template.Template
	messages bool
}

func read(source string) (*chat, error) {
	t, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(source)
	if err != nil {
		return nil, err
	}
	asked := map[string]bool{}
	for _, each := range t.Templates() {
		for _, node := range each.Root.Nodes {
			if err := collect(node, asked); err != nil {
				return nil, err
			}
		}
	}
	if !asked["messages"] && !asked["response"] { // the answer's place goes without saying
		field := &parse.FieldNode{NodeType: parse.NodeField, Ident: []string{"Response"}}
		command := &parse.CommandNode{NodeType: parse.NodeCommand, Args: []parse.Node{field}}
		pipe := &parse.PipeNode{NodeType: parse.NodePipe, Cmds: []*parse.CommandNode{command}}
		t.Root.Nodes = append(t.Root.Nodes, &parse.ActionNode{NodeType: parse.NodeAction, Pipe: pipe})
	}
	return &chat{t, asked["messages"]}, nil
}

// collect notes every name that a template asks for where Ollama looks: not within parentheses.
func collect(node parse.Node, asked map[string]bool) error {
	branch := func(b *parse.BranchNode) error {
		if err := collect(b.Pipe, asked); err != nil {
			return err
		}
		if err := collect(b.List, asked); err != nil || b.ElseList == nil {
			return err
		}
		return collect(b.ElseList, asked)
	}
	switch n := node.(type) {
	case *parse.ListNode:
		for _, each := range n.Nodes {
			if err := collect(each, asked); err != nil {
				return err
			}
		}
	case *parse.TemplateNode:
		if n.Pipe == nil { // Ollama refuses it
			return fmt.Errorf("{{ template %q }} is given no value", n.Name)
		}
		return collect(n.Pipe, asked)
	case *parse.ActionNode:
		return collect(n.Pipe, asked)
	case *parse.IfNode:
		return branch(&n.BranchNode)
	case *parse.RangeNode:
		return branch(&n.BranchNode)
	case *parse.WithNode:
		return branch(&n.BranchNode)
	case *parse.PipeNode:
		for _, command := range n.Cmds {
			for _, argument := range command.Args {
				if err := collect(argument, asked); err != nil {
					return err
				}
			}
		}
	case *parse.FieldNode:
		for _, name := range n.Ident {
			asked[strings.ToLower(name)] = true
		}
	case *parse.VariableNode:
		for _, name := range n.Ident {
			asked[strings.ToLower(name)] = true
		}
	}
	return nil
}

// joined are the messages with those of one role in a row made one (results of tools apart), and all system texts.
func joined(all []message) (string, []*message) {
	var system []string
	var turns []*message
	for i := range all {
		m := &all[i]
		if m.Role == "system" {
			system = append(system, m.Content)
		}
		if last := len(turns) - 1; last >= 0 && turns[last].Role == m.Role && m.Role != "tool" {
			turns[last].Content += "\n\n" + m.Content
		} else {
			turns = append(turns, m)
		}
	}
	return strings.Join(system, "\n\n"), turns
}

func (c *chat) prompt(input conversation) (string, error) {
	var out bytes.Buffer
	system, turns := joined(input.Messages)
	values := func(more map[string]any) map[string]any {
		more["Think"] = input.Think != nil && *input.Think
		more["ThinkLevel"], more["IsThinkSet"] = "", input.Think != nil
		return more
	}
	if c.messages {
		err := c.Execute(&out, values(map[string]any{
			"System": system, "Messages": turns, "Tools": input.Tools, "Response": "",
		}))
		return out.String(), err
	}
	var exchange struct{ system, prompt, response string }
	write := func(t *template.Template) error {
		err := t.Execute(&out, values(map[string]any{
			"System": exchange.system, "Prompt": exchange.prompt, "Response": exchange.response,
		}))
		exchange.system, exchange.prompt, exchange.response = "", "", ""
		return err
	}
	for _, m := range turns {
		full := exchange.response != "" || (m.Role == "system" && exchange.prompt != "")
		if full && (m.Role == "system" || m.Role == "user") {
			if err := write(c.Template); err != nil {
				return "", err
			}
		}
		switch m.Role {
		case "system":
			exchange.system = m.Content
		case "user":
			exchange.prompt = m.Content
		case "assistant":
			exchange.response = m.Content
		}
	}
	// The last exchange ends where the answer goes. Its template stands alone: it has no other to call, and of the
	// functions only Go's own are known to it.
	root, ok := (&cutter{}).cut(c.Root.Copy()).(*parse.ListNode)
	if !ok {
		return "", fmt.Errorf("the template is empty before .Response")
	}
	last, err := template.New("").AddParseTree("", &parse.Tree{Root: root})
	if err != nil {
		return "", err
	}
	err = write(last)
	return out.String(), err
}

// cutter takes out of a template all that comes after the first .Response.
type cutter struct{ done bool }

func (c *cutter) cut(node parse.Node) parse.Node {
	if field, ok := node.(*parse.FieldNode); ok && has(field.Ident, "Response") {
		c.done = true
		return node
	}
	if c.done {
		return nil
	}
	branch := func(b *parse.BranchNode) {
		b.List = c.list(b.List)
		if b.ElseList != nil {
			b.ElseList = c.list(b.ElseList)
		}
	}
	switch n := node.(type) {
	case *parse.ListNode:
		return c.list(n)
	case *parse.IfNode:
		branch(&n.BranchNode)
	case *parse.WithNode:
		branch(&n.BranchNode)
	case *parse.RangeNode:
		branch(&n.BranchNode)
	case *parse.ActionNode:
		pipe, ok := c.cut(n.Pipe).(*parse.PipeNode)
		if !ok {
			return nil
		}
		n.Pipe = pipe
	case *parse.PipeNode:
		var commands []*parse.CommandNode
		for _, command := range n.Cmds {
			var kept []parse.Node
			for _, argument := range command.Args {
				if k := c.cut(argument); k != nil {
					kept = append(kept, k)
				}
			}
			if len(kept) == 0 {
				return nil
			}
			command.Args = kept
			commands = append(commands, command)
		}
		if len(commands) == 0 {
			return nil
		}
		n.Cmds = commands
	}
	return node
}

// list cuts a list; one that lies wholly after the answer is empty.
func (c *cutter) list(n *parse.ListNode) *parse.ListNode {
	var kept []parse.Node
	for _, each := range n.Nodes {
		if k := c.cut(each); k != nil {
			kept = append(kept, k)
		}
	}
	n.Nodes = kept
	return n
}

func has(words []string, word string) bool {
	for _, each := range words {
		if each == word {
			return true
		}
	}
	return false
}

func main() {
	var asked request
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		fmt.Fprintln(os.Stderr, "the request is not JSON:", err)
		os.Exit(1)
	}
	answer := reply{Prompts: []rendered{}}
	if chat, err := read(asked.Template); err != nil {
		answer.Refused = err.Error()
	} else {
		for _, input := range asked.Inputs {
			text, err := chat.prompt(input)
			if err != nil {
				answer.Prompts = append(answer.Prompts, rendered{Error: err.Error()})
			} else {
				answer.Prompts = append(answer.Prompts, rendered{Text: text})
			}
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
