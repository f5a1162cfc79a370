"""Every prompt of the project, as a named constant or template."""

# System message of InternVL's `internvl2_5` conversation template. It is part of the checkpoints' format:
# both the policy and the released PRM were trained with it, so it must not be changed or translated.
SYSTEM_MESSAGE = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)

# What the policy is asked, by step format. The text ends with "Question: ..." and, in prompt mode, the previous steps.
POLICY_INSTRUCTIONS = {
    "tags": (
        "Solve the problem step by step: write each step as <step>...</step>, "
        "then the final answer as <answer>...</answer>."
    ),
    # For a policy that was never taught the tags
    "paragraphs": (
        "Solve the problem step by step: write each step as one paragraph, with a blank line between steps, "
        "then the final answer alone on the last line as Answer: ..."
    ),
    # MM-Eureka's tags (arXiv 2503.07365); the wording is ours
    "think": (
        "Think the problem through inside <think>...</think>, with a blank line between steps, "
        "then give the final answer as <answer>...</answer>."
    ),
}
POLICY_CONTINUE = "Go on after the previous steps without repeating them."

# What an LLM is asked to make of an existing solution. The reference answer is not in it: a reply that merely repeats
# it would pass the check that the solution's own answer was kept.
RESTRUCTURE_TEMPLATE = """Rewrite a solution step by step, without solving the problem anew.
Write each step as <step>...</step>, one deduction or calculation in each, then the final answer alone as \
<answer>...</answer>, and nothing outside these tags.
Keep the solution's reasoning, numbers and final answer as they are; add, drop and correct nothing.
The problem may have a picture that you do not see: keep what the solution reads from it.

Problem: {question}
Solution: {solution}"""

# What the LLM judge is asked; one word back.
JUDGE_TEMPLATE = """You compare a student's final answer with the reference answer of a problem.
They agree if they mean the same value or choice; notation, units left out and formatting do not matter.

Problem: {question}
Reference answer: {reference}
Student's answer: {answer}

Reply with one word: yes or no."""

# What the step judge is asked about one state of a search tree; the probability of the first word is its verdict.
STEP_JUDGE_TEMPLATE = """You check a solution step by step. Nothing of it was checked before.

Problem: {question}
Reference answer: {reference}
Steps so far:
{previous}
New step:
{step}

Is everything up to and including the new step correct? Reply with one word: Yes or No."""

# Chat template of the native checkpoints (jinja): the system message is always there, images come as <IMG_CONTEXT>
# (the processor widens it to <img><IMG_CONTEXT>...</img>), each followed by a newline.
CHAT_TEMPLATE = (
    "{%- if not messages or messages[0]['role'] != 'system' -%}"
    "{{- '<|im_start|>system\n" + SYSTEM_MESSAGE + "<|im_end|>\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] in ['image', 'image_url'] -%}{{- '<IMG_CONTEXT>\n' -}}"
    "{%- elif part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def policy_prompt(question: str, previous_steps: str = "", step_format: str = "tags") -> str:
    """The text of the user's message, without images: instruction, question and, if any, the rendered prefix.

    Ends with `Question: {question}`, then `\\nPrevious Steps: {previous_steps}` when there is a prefix.
    """
    instruction = POLICY_INSTRUCTIONS[step_format]
    if not previous_steps:
        return f"{instruction}\nQuestion: {question}"
    return f"{instruction} {POLICY_CONTINUE}\nQuestion: {question}\nPrevious Steps: {previous_steps}"
