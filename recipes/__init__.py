"""The verbs: what fills a stage folder, and what a user types. Each opens its inputs and calls the package.

Stages, in the order of the chain; `make(job)` fills the folder of one and returns its facts:

    sft                 supervised fine-tuning of a start model
    prompts             the prompts that on-policy pairs are made for
    sample              one answer of the policy to each of them
    reward              a reward model's score of each answer
    pairs               preference pairs, checked and tokenised
    reference           log-probs of the frozen start model
    train               preference training
    benchmark           questions and reference answers
    generate            completions
    judge               verdicts
    report              tables, figures, the page
    sweep               the results of a search

Commands, `python -m recipes.NAME`, most of them behind a target of make; stages that can be asked for alone are
commands too:

    reproduce           the table, from nothing to numbers
    plan                what a table would take
    status              where its rows stand
    cancel              its jobs out of Slurm's queue
    doctor              what this machine has and lacks for it
    rescore             its scores again from the judge's records
    why                 the chain behind one of its numbers
    notebooks           the notebooks on its report
    dashboard           the W&B workspace and report
    publish             a report into docs/
    dynamics            what training does to the pairs of a file
    calibrate           the rate of training steps on this machine
    calibrate_judge     a judge against published annotations
    score_annotations   published annotations into scores
    bench               the speed of training, beside TRL's
"""
