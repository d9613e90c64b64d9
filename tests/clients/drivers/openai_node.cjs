// Asks through OpenAI's library for Node and prints what came, as JSON.
const OpenAI = require("openai");

async function main() {
  const asked = JSON.parse(process.argv[2]);
  const client = new (OpenAI.default || OpenAI)({ maxRetries: 0 });
  const model = (await client.models.list()).data[0].id;
  const body = {
    model,
    messages: [{ role: "user", content: asked.question }],
    max_tokens: asked.tokens,
    temperature: 0,
  };
  const whole = await client.chat.completions.create(body);
  let streamed = "";
  let usage = null;
  const options = { ...body, stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await client.chat.completions.create(options)) {
    usage = chunk.usage || usage;
    streamed += chunk.choices.map((choice) => choice.delta.content || "").join("");
  }
  const filled = await client.completions.create({
    model,
    prompt: asked.prefix,
    suffix: asked.suffix,
    max_tokens: asked.tokens,
    temperature: 0,
  });
  // The library calls the function and sends its result back by itself.
  let city = null;
  const runner = client.chat.completions.runTools(
    {
      ...body,
      tool_choice: { type: "function", function: { name: "weather" } },
      parallel_tool_calls: false,
      tools: [
        {
          type: "function",
          function: {
            name: "weather",
            parameters: asked.schema,
            parse: JSON.parse,
            function: (given) => {
              city = given.city;
              return "rain";
            },
          },
        },
      ],
    },
    { maxChatCompletions: 2 },
  );
  await runner.done();
  const found = {
    whole: whole.choices[0].message.content,
    wholeUsage: whole.usage.completion_tokens,
    streamed,
    usage: usage.completion_tokens,
    middle: filled.choices[0].text,
    city,
  };
  process.stdout.write(JSON.stringify(found));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
