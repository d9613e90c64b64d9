"""llama-server's own dialect, which llama.vim and llama.vscode speak."""
